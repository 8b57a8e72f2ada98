"""Every problem is found and named, and repaired where that is possible."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtd_plugin.triplets.checks import PROBLEMS, Problem, check_records, detect_language, find_problems, repair
from rtd_plugin.triplets.records import Fault, read_records
from rtd_plugin.triplets.triplet import Triplet
from rtd_plugin.triplets.triplet_file import JSON_COLUMNS

GOOD = Triplet("a red dog runs", "is blue", "a blue dog runs")
LONG = " ".join(["dog"] * 80)


@pytest.mark.parametrize(
    ("triplet", "problems"),
    [
        (GOOD, []),
        (GOOD._replace(target="A red dog runs ."), [("unchanged", "")]),
        (GOOD._replace(target="The red dog runs"), [("unchanged", "")]),
        (Triplet("a dog, a red hat", "no hat", "a dog, a blue hat"), [("contradiction", "hat")]),
        (GOOD._replace(target="a light blue dog runs"), [("torn compound", "light blue")]),
        (GOOD._replace(condition="I want a blue dog, it runs"), []),
        (GOOD._replace(condition="show: A blue dog runs."), [("repeats target", "")]),
        (GOOD._replace(condition="has a blue dog, runs in it"), [("repeats target", "")]),
        (GOOD._replace(condition="$5 more"), [("placeholder", "condition holds $")]),
        (GOOD._replace(reference="a * $"), [("placeholder", "reference holds $ and *")]),
        (GOOD._replace(reference=LONG), [("too long", "reference by 5")]),
        (GOOD._replace(target=" ".join(["dog"] * 75)), []),
        (GOOD._replace(condition="=HYPERLINK(\"x\")"), [("formula", "condition")]),
        (GOOD._replace(condition="=cmd|' /C calc'!A0"), [("formula", "condition")]),
        (GOOD._replace(condition="- more red"), []),
    ],
)  # fmt: skip
def test_problems_of_a_triplet(triplet, problems):
    assert find_problems(triplet) == [Problem(*problem) for problem in problems]


FORMULAS = [
    "=A1+cmd|' /C calc'!A0",
    "=1+1",
    "= SUM(A1:A3)",
    '="a"&B1',
    "+1+HYPERLINK(1)",
    "-2+3+cmd|' /C calc'!A0",
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "+cmd|x!A0",
    "-A1",
    "+$B$2*3",
    "--A1",
    "+'my sheet'!A1",
    "+[book.xlsx]Sheet1!A1",
    "\uff1dSUM(1)",
    "-1*webservice(1)",
]
CAPTIONS = [
    "- a dog",
    "- red (dark)",
    "- stop!",
    "- red | blue",
    "+ size dress",
    "+1 dog, no cat",
    "-5 degrees",
    "@home",
    "@home (today)",
    "=) a smile",
    "=> is blue",
    "--- is blue",
    "a1 = b1",
    "add SUM(1)",
    "+ a1, in red",
]


@pytest.mark.parametrize("text", FORMULAS)
@pytest.mark.parametrize("space", ["", " ", "\t", "\r", "\r\n"])
def test_formulas_are_found(text, space):
    assert Problem("formula", "condition") in find_problems(GOOD._replace(condition=space + text))


@pytest.mark.parametrize("text", CAPTIONS)
def test_captions_are_not_formulas(text):
    assert find_problems(GOOD._replace(condition=text)) == []


@given(st.sampled_from("+-@"), st.lists(st.from_regex("[a-z]{2,8}", fullmatch=True), min_size=1))
def test_words_after_a_sign_are_not_a_formula(sign, words):
    assert "formula" not in {p.name for p in find_problems(GOOD._replace(condition=f"{sign} {' '.join(words)}"))}


@given(st.sampled_from("=+-@"), st.from_regex("[a-z][a-z0-9.]{0,8}", fullmatch=True), st.text(max_size=9))
def test_calls_are_formulas(sign, name, argument):
    assert "formula" in {p.name for p in find_problems(GOOD._replace(condition=f"{sign}{name}({argument})"))}


def test_every_problem_is_found_in_a_file(tmp_path):
    rows = [
        {"caption": "a red dog runs", "edit": "is blue", "output": "a blue dog runs"},
        {"caption": "A red dog runs.", "edit": "Is blue", "output": "a blue dog runs"},
        {"caption": "a", "edit": "b"},
        {"caption": "a", "edit": 3, "output": ""},
        {"caption": LONG, "edit": "$", "output": LONG},
        {"caption": "b", "edit": "=A1(2) is c", "output": "c"},
        {"caption": "b", "edit": "no b", "output": "b!"},
    ]
    path = tmp_path / "t.jsonl"
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(content + b'{"caption": "caf\xe9"}\n{"caption"\n')
    names = {
        checked.location: {problem.name for problem in checked.problems}
        for checked in check_records(read_records(path, JSON_COLUMNS), JSON_COLUMNS)
    }
    assert list(names.items()) == [
        ("record 1 (line 1)", set()),
        ("record 2 (line 2)", {"duplicate"}),
        ("record 3 (line 3)", {"missing"}),
        ("record 4 (line 4)", {"not text", "empty"}),
        ("record 5 (line 5)", {"empty"}),
        ("record 6 (line 6)", {"formula", "repeats target"}),
        ("record 7 (line 7)", {"unchanged"}),
        ("record 8 (line 8)", {"encoding"}),
        ("record 9 (line 9)", {"broken"}),
    ]
    assert set().union(*names.values()) < set(PROBLEMS)


def test_placeholders_are_removed_and_other_problems_remain():
    odd = GOOD._replace(condition="is  $blue$ *")
    assert repair(odd, find_problems(odd)) == GOOD
    for broken in (
        GOOD._replace(condition="*"),
        GOOD._replace(target=GOOD.reference),
        GOOD._replace(target="a red $ dog runs"),
    ):
        assert repair(broken, find_problems(broken)) is None
    assert repair(GOOD, [Problem("duplicate", "")]) is None


def test_languages_are_detected():
    pytest.importorskip("py3langid")
    texts = (
        "a brown dog runs over the green grass",
        "ein brauner Hund läuft über das grüne Gras",
        "un chien brun court sur l'herbe verte",
        "grass",
    )
    assert [detect_language(text) for text in texts] == ["en", "de", "fr", None]


def test_a_fault_is_a_broken_record():
    ((_, triplet, problems),) = check_records([("line 1", Fault("longer than 3 bytes"))], JSON_COLUMNS)
    assert triplet is None
    assert problems == [Problem("broken", "longer than 3 bytes")]
