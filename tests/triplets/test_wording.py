"""Contradictions, torn compounds and the order of old and new, found from the words of a triplet."""

import pytest

from rtd_plugin.triplets.triplet import Triplet
from rtd_plugin.triplets.wording import find_contradiction, find_order, find_torn_compound, is_unchanged

DOG, CAT = "A dog runs on the grass .", "A cat runs on the grass ."


@pytest.mark.parametrize(
    ("condition", "order"),
    [
        ("replace the dog with a cat", "old first"),
        ("instead of a dog there is a cat", "old first"),
        ("swap the dog for a cat", "old first"),
        ("a cat instead of a dog", "new first"),
        ("Has a CAT, not a dog.", "new first"),
        ("make it a cat", "new alone"),
        ("no dog", "old alone"),
        ("something else on the grass", "neither"),
    ],
)
def test_the_order_of_old_and_new(condition, order):
    assert find_order(Triplet(DOG, condition, CAT)) == order


@pytest.mark.parametrize(
    ("reference", "condition", "target", "compound"),
    [
        ("a shirt in dark blue", "the shirt is light", "a shirt in medium light", "medium light"),
        ("a person with dark skin", "make the skin light", "a person with medium-light skin", "medium light"),
        ("a red shirt", "is blue", "a light blue shirt", "light blue"),
        ("a red shirt", "is light blue", "a light blue shirt", ""),
        ("a light red shirt", "is blue", "a light blue shirt", ""),  # as light as before
        ("a medium dark shirt", "is light", "a medium light shirt", "medium light"),
        ("a light blue shirt", "has a dog", "a light blue shirt and a dog", ""),
        ("a bright room", "has a big dog", "a bright room with a big dog", ""),
    ],
)
def test_torn_compounds(reference, condition, target, compound):
    assert find_torn_compound(Triplet(reference, condition, target)) == compound


@pytest.mark.parametrize(
    ("reference", "condition", "target", "words"),
    [
        ("a man with a red hat", "remove the hat", "a man with a blue hat", "hat"),
        ("a man with a red hat", "without the red hat from before", "a tall man with a red hat", "red hat"),
        ("two dogs and a cat", "has no cat, more dogs", "three dogs and a cat", "cat"),
        ("a man with a hat", "no hat", "a man", ""),
        ("two hats", "remove one of the hats", "one of two hats", ""),
        ("a dog and a dog", "remove the dog", "a dog", ""),
        ("a man in no shirt", "a woman with no shirt", "a woman in no shirt", ""),
        ("a boy runs", "shows no more than one boy", "a boy sits", ""),
        (DOG, "replace the dog with a cat", "A brown dog runs on the grass .", "dog"),
        (DOG, "a cat instead of a dog", "A dog sits on the grass .", "dog"),
        (DOG, "a cat, not a dog", CAT, ""),
        ("a dog on the grass", "change the dog to brown", "a brown dog on the grass", ""),
        ("a dog in red, a man", "change the man to red", "a dog in red, a red man", ""),
        ("a dog bites a cat", "a cat instead of a dog", "a cat bites a cat", ""),
    ],
)
def test_contradictions(reference, condition, target, words):
    assert find_contradiction(Triplet(reference, condition, target)) == words


def test_a_change_of_articles_only_is_no_change():
    assert is_unchanged(Triplet(DOG, "the dog", "The dog runs on grass"))
    assert not is_unchanged(Triplet(DOG, "a cat", CAT))
