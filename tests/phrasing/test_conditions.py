"""Conditions from requests alone, without the rules that find requests in captions."""

import random
import subprocess
import sys
from dataclasses import replace

import pytest

from rtd_plugin.phrasing.conditions import Request, can_phrase, write_condition
from rtd_plugin.phrasing.registers import REQUESTS

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
