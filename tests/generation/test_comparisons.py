"""Comparisons of two values of an attribute."""

import pytest

from rtd_plugin.generation.rules.comparisons import compare_values


@pytest.mark.parametrize(
    ("kind", "old", "new", "comparative"),
    [
        ("colour", "white", "black", "darker"),
        ("colour", "dark blue", "pink", "lighter"),
        ("colour", "blue", "light blue", "lighter"),
        ("colour", "red", "blue", None),
        ("colour", "", "black", None),
        ("colour", "neon green", "black", None),
        ("colour", "mauve", "black", None),
        ("hem", "maxi", "knee-length", "shorter"),
        ("hem", "mini", "midi", "longer"),
        ("hem", "midi", "calf-length", None),
        ("length", "short", "long", "longer"),
        ("material", "wool", "silk", None),
    ],
)
def test_values_of_one_kind_are_compared(kind, old, new, comparative):
    assert compare_values(kind, old, new).get("comparative") == comparative


@pytest.mark.parametrize(
    ("old", "new", "fields"),
    [
        ("sleeveless", "short-sleeved", ("short sleeves", "longer sleeves", "less revealing")),
        ("long-sleeved", "short-sleeved", ("short sleeves", "shorter sleeves", "more revealing")),
        ("long-sleeved", "sleeveless", ("no sleeves", None, "more revealing")),
        ("", "long-sleeved", ("long sleeves", None, None)),
    ],
)
def test_sleeves_are_named_as_parts(old, new, fields):
    compared = compare_values("sleeves", old, new)
    assert tuple(compared.get(name) for name in ("new_sleeves", "other_sleeves", "revealing")) == fields


def test_only_colours_of_one_word_are_graded():
    """A shade with a modifier would make "more light blue"."""
    assert compare_values("colour", "light blue", "yellow") == {"new_hue": "yellow"}


def test_a_print_and_none_have_patterns_of_their_own():
    assert compare_values("pattern", "striped", "plain") == {"plain": ""}
    assert compare_values("pattern", "plain", "striped") == {"pattern": "", "new_print": "stripes"}


def test_vivid_colours_are_told_from_neutral_ones():
    assert "vivid" in compare_values("colour", "black", "pink")
    assert "muted" in compare_values("colour", "pink", "grey")
    assert not {"vivid", "muted"} & compare_values("colour", "pink", "yellow").keys()


def test_some_values_can_be_less():
    assert compare_values("occasion", "formal", "casual") == {"comparative": "more casual", "less_old": "less formal"}
