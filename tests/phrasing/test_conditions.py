"""Conditions from requests alone, without the rules that find requests in captions."""

import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest

from rtd_plugin.phrasing.conditions import Request, can_phrase, write_condition
from rtd_plugin.phrasing.patterns import PATTERNS
from rtd_plugin.phrasing.registers import REQUESTS, STATEMENTS_REGISTER

PLAIN = replace(REQUESTS, framed=0, telegraphic=0, sentence_case=0)


def test_a_pattern_is_used_if_the_request_has_its_fields():
    request = Request("remove", {"the_thing": "the dog"})
    texts = {write_condition([request], random.Random(seed), PLAIN) for seed in range(300)}
    assert {"remove the dog", "get rid of the dog", "the dog is gone"} & texts == {
        "remove the dog",
        "get rid of the dog",
    }
    assert all("the dog" in text for text in texts)
    assert len(texts) > 10


def test_a_request_without_the_fields_of_a_pattern_cannot_be_phrased():
    assert can_phrase(Request("remove", {"the_thing": "the dog"}))
    assert not can_phrase(Request("remove", {"verb": "walking"}))


def test_requests_become_one_condition():
    requests = [Request("remove", {"the_thing": "the dog"}), Request("remove", {"the_thing": "the cat"})]
    for seed in range(50):
        text = write_condition(requests, random.Random(seed), PLAIN)
        assert text.index("the dog") < text.index("the cat")


@pytest.mark.parametrize("register", [replace(REQUESTS, sentence_case=share, full_stop=share) for share in (0.0, 1.0)])
def test_the_register_sets_capitals_and_full_stops(register):
    request = Request("remove", {"the_thing": "the dog"})
    for seed in range(50):
        text = write_condition([request], random.Random(seed), register)
        assert text[0].isupper() == text.endswith(".") == bool(register.sentence_case)


def test_the_grammar_needs_neither_the_parser_nor_the_rules():
    code = """
import sys
sys.modules.update(dict.fromkeys(("spacy", "inflect", "torch", "rtd_plugin.generation")))
import rtd_plugin.phrasing.conditions, rtd_plugin.phrasing.slips
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


COLOUR = {
    "sole": "", "colour": "", "predicative": "", "noun": "dress", "the_noun": "the dress", "is": "is",
    "old_value": "blue", "new_value": "black", "new_hue": "black", "old_hue": "blue", "a_new": "a black dress",
    "comparative": "darker",
}  # fmt: skip
SLEEVES = {"sole": "", "new_sleeves": "long sleeves", "other_sleeves": "longer sleeves", "a_new": "a wide dress"}
CLOTHES = replace(STATEMENTS_REGISTER, framed=0, telegraphic=0, sentence_case=0, open_compounds=0)


def test_first_words_have_the_shares_of_the_register():
    request = Request("remove", {"the_thing": "the dog"})
    shares = {"remove": 60, "delete": 30, "drop": 9}
    register = replace(PLAIN, openings=shares, moods={"imperative": 1, "predicate": 0, "clause": 0, "noun": 0})
    first = Counter(write_condition([request], random.Random(seed), register).split()[0] for seed in range(2000))
    assert first["remove"] / first["delete"] == pytest.approx(2, rel=0.2)
    assert sum(first.values()) - sum(first[word] for word in shares) < 60  # all others share 1 %


def test_without_shares_all_patterns_are_equally_likely():
    request = Request("remove", {"the_thing": "the dog"})
    register = replace(PLAIN, openings={}, moods={"imperative": 1, "predicate": 0, "clause": 0, "noun": 0})
    texts = Counter(write_condition([request], random.Random(seed), register) for seed in range(4000))
    assert max(texts.values()) < 2 * min(texts.values())


def test_a_register_has_patterns_of_its_own():
    request = Request("attribute", {"sole": "", "new_hue": "black"})
    assert not can_phrase(request)
    assert write_condition([request], random.Random(0), CLOTHES) == "is more black"


def test_statements_about_one_thing_are_contracted():
    requests = [Request("attribute", COLOUR), Request("attribute", SLEEVES)]
    texts = {write_condition(requests, random.Random(seed), CLOTHES) for seed in range(1500)}
    assert {"is more black with long sleeves", "is darker and a wide dress"} <= texts
    assert {"is black in color and has longer sleeves", "is black colored and has long sleeves"} & texts
    assert not any("has no" in text and " with " in text.split("has no")[1] for text in texts)


def test_compounds_may_be_written_apart():
    request = Request("attribute", {"sole": "", "a_new": "a long-sleeved dress"})
    for share, hyphens in ((0.0, 1), (1.0, 0)):
        register = replace(CLOTHES, open_compounds=share)
        assert write_condition([request], random.Random(0), register).count("-") == hyphens


@pytest.mark.parametrize("register", [REQUESTS, STATEMENTS_REGISTER], ids=["requests", "statements"])
def test_patterns_of_a_register_are_new_and_of_known_kinds(register):
    assert register.patterns.keys() <= PATTERNS.keys()
    for kind, patterns in register.patterns.items():
        assert len(set(patterns)) == len(patterns)
        assert not set(patterns) & set(PATTERNS[kind])
