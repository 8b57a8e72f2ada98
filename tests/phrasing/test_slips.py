"""Slips of the fingers."""

import random

from rtd_plugin.phrasing.slips import misspell


def test_a_slip_changes_one_word_that_may_change():
    rng = random.Random(0)
    text = "Replace the elephant with a pelican"
    slips = {misspell(text, rng, {"pelican"}) for _ in range(200)}
    assert len(slips) > 10
    for slip in slips - {text}:
        before, after = text.split(" "), slip.split(" ")
        assert [a for a, b in zip(before, after, strict=True) if a != b] == ["elephant"]
    assert misspell("is red", rng, ()) == "is red"
