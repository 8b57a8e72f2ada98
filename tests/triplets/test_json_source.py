"""The source `json` reads every shape, and names what is wrong with other files."""

import hashlib
import json
import re
import subprocess
import sys

import pytest

from rtd_plugin.errors import RTDError
from rtd_plugin.triplets.sources import JsonTriplets
from rtd_plugin.triplets.triplet import Triplet
from rtd_plugin.triplets.triplet_file import JSON_COLUMNS

TRIPLETS = [
    Triplet("A dog on grass", "make it <PERSON>'s cat", "A cat on grass"),
    Triplet("  two réd cups", "only one", "one red cup "),
    Triplet("a $5 note", "a coin {", "[a coin]"),
]
RECORDS = [
    {"reference_caption": reference, "conditioning_caption": condition, "target_caption": target}
    for reference, condition, target in TRIPLETS
]
COLUMNS = {key: [record[key] for record in RECORDS] for key in RECORDS[0]}
PIX2PIX = [
    {"caption": reference, "edit": condition, "output": target, "url": None}
    for reference, condition, target in TRIPLETS
]
INPUT = [{"input": reference, "edit": condition, "output": target} for reference, condition, target in TRIPLETS]


def lines(records: list) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


@pytest.fixture
def write(tmp_path):
    def write(content: str | bytes, **options) -> JsonTriplets:
        path = tmp_path / "triplets.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return JsonTriplets(path=path, **options)

    return write


SHAPES = {
    "lists": json.dumps(COLUMNS),
    "lists, indented": json.dumps(COLUMNS, indent=2),
    "lists, broken over two lines": json.dumps(COLUMNS).replace('], "', '],\n"', 1),
    "array": json.dumps(RECORDS),
    "array, indented": json.dumps(RECORDS, indent=0),
    "array, record a line": "[" + lines(RECORDS).replace("}\n{", "},\n{") + "]",
    "array of InstructPix2Pix's": json.dumps(PIX2PIX),
    "lines": lines(RECORDS),
    "lines, caption": lines(PIX2PIX),
    "lines, input": lines(INPUT),
    "lines, blanks between": "\n \n" + lines(RECORDS).replace("\n", "\r\n\r\n").rstrip(),
    "byte order mark, lines": "\ufeff" + lines(PIX2PIX),
    "byte order mark, array": "\ufeff" + json.dumps(RECORDS),
}


@pytest.mark.parametrize("content", SHAPES.values(), ids=SHAPES)
def test_every_shape_gives_the_same_set(write, content):
    found = write(content).load()
    assert list(found.triplets) == TRIPLETS
    assert (
        found.digest
        == hashlib.sha256("".join(f"{text}\0" for triplet in TRIPLETS for text in triplet).encode()).hexdigest()
    )
    assert found.skipped == 0


@pytest.mark.parametrize("indent", [None, 2])
def test_a_single_record_is_a_set_of_one(write, indent):
    assert list(write(json.dumps(PIX2PIX[1], indent=indent)).load().triplets) == TRIPLETS[1:2]


@pytest.mark.parametrize(
    "keys",
    [("original_prompt", "edit_prompt", "edited_prompt"), ("source_caption", "edit_prompt", "target_caption")],
    ids=["InstructPix2Pix on Hugging Face", "UltraEdit"],
)
def test_keys_of_known_data_sets_are_read(write, keys):
    records = [dict(zip(keys, triplet, strict=True)) for triplet in TRIPLETS]
    lists = {key: [record[key] for record in records] for key in keys}
    for content in (lines(records), json.dumps(records), json.dumps(lists)):
        assert list(write(content).load().triplets) == TRIPLETS


def test_columns_name_other_keys(write):
    keys = ("original_caption", "edit_prompt", "edited_caption")
    records = [dict(zip(keys, triplet, strict=True)) for triplet in TRIPLETS]
    columns = dict(zip(Triplet._fields, keys, strict=True))
    lists = {key: [record[key] for record in records] for key in keys}
    for content in (lines(records), json.dumps(records), json.dumps(lists)):
        assert list(write(content, columns=columns).load().triplets) == TRIPLETS
    partly = [{**record, "edit": record["edit_prompt"]} for record in records]
    some = {name: key for name, key in columns.items() if name != "condition"}
    assert list(write(lines(partly), columns=some).load().triplets) == TRIPLETS
    with pytest.raises(RTDError, match=r"record 1 .*`original_caption` is missing"):
        write(lines(RECORDS), columns=columns).load()


def test_the_digest_depends_on_content_and_order(write):
    moved = Triplet(TRIPLETS[0].reference + TRIPLETS[0].condition[:4], *TRIPLETS[0][1:])
    sets = [TRIPLETS, TRIPLETS[::-1], TRIPLETS[:2], [moved, *TRIPLETS[1:]]]
    records = [[dict(zip(INPUT[0], triplet, strict=True)) for triplet in triplets] for triplets in sets]
    digests = {write(lines(each)).load().digest for each in records}
    assert len(digests) == len(sets)


FAULTS = {
    '{"caption": "a", "edit": "b", "outp': "broken JSON: Unterminated string starting at (column 31)",
    '{"edit": "b", "output": "c"}': f"{' or '.join(f'`{key}`' for key in JSON_COLUMNS[0])} is missing "
    "(it has edit, output; set `columns` if one of them is meant)",
    '{"caption": "a", "output": "c"}': f"{' or '.join(f'`{key}`' for key in JSON_COLUMNS[1])} is missing "
    "(it has caption, output; set `columns` if one of them is meant)",
    '{"caption": "a", "edit": null, "output": "c"}': "`edit` is null",
    '{"caption": "a", "edit": 3, "output": "c"}': "`edit` is not text",
    '{"caption": ["a"], "edit": "b", "output": "c"}': "`caption` is not text",
    '{"caption": "a", "edit": "b", "output": "\\u0000c"}': "`output` is not text (a NUL character)",
    '{"caption": "a", "edit": "b", "output": "\\ud800"}': "`output` is not text (half a surrogate pair)",
    '{"caption": "a", "edit": "b", "output": "\0"}': "broken JSON: Invalid control character at (column 42)",
    '{"caption": "", "edit": "b", "output": "c"}': "`caption` is empty",
    '{"caption": "a", "edit": "\\t ", "output": "c"}': "`edit` is empty",
    '{"caption": "a", "edit": "b", "output": " $"}': "`output` is empty",
    '["a", "b", "c"]': "not an object",
    "a, b, c": "broken JSON: Expecting value (column 1)",
    "[" * 100_000: "JSON nested too deeply",
    '{"caption": %s}' % ("1" * 5000): "an integer of more than 4,300 digits",
    b'{"caption": "caf\xe9", "edit": "b", "output": "c"}': "byte 17 is not UTF-8",
}


@pytest.mark.parametrize(
    ("position", "record", "fault"),
    [(3, *each) for each in FAULTS.items()]
    # A file whose first line opens an array is read as an array.
    + [(1, *each) for each in FAULTS.items() if each[0][0] != "["],
)
def test_a_broken_line_stops_or_is_skipped(write, position, record, fault):
    record = record if isinstance(record, bytes) else record.encode()
    whole = lines(PIX2PIX).encode().splitlines(keepends=True)
    whole.insert(position - 1, record + b"\n")
    source = write(b"".join(whole))
    with pytest.raises(RTDError) as raised:
        source.load()
    assert str(raised.value) == (
        f"{source.path}, record {position} (line {position}): {fault} (broken records: 1 of 4); "
        "repair the file or set `skip_invalid: true`"
    )
    kept = write(b"".join(whole), skip_invalid=True).load()
    assert (list(kept.triplets), kept.skipped) == (TRIPLETS, 1)
    assert kept.digest == write(lines(RECORDS)).load().digest


def test_line_1000_of_many_is_named_with_the_number_of_broken_ones(write):
    rows = lines(PIX2PIX * 700).splitlines()
    rows.insert(0, "")  # so that lines and records count differently
    rows[999] = rows[999][:-5]
    rows[1500] = rows[2000] = "{}"
    source = write("\n".join(rows))
    with pytest.raises(RTDError, match=re.escape("record 999 (line 1,000): broken JSON")) as raised:
        source.load()
    assert "(broken records: 3 of 2,100)" in str(raised.value)
    skipping = write("\n".join(rows), skip_invalid=True).load()
    assert (len(skipping.triplets), skipping.skipped) == (2097, 3)


@pytest.mark.parametrize("shape", ["lists", "array"])
def test_a_broken_record_of_a_whole_file_is_named_by_number(write, shape):
    records = [*RECORDS, {**RECORDS[0], "target_caption": None}]
    content = json.dumps(records if shape == "array" else {key: [each[key] for each in records] for key in COLUMNS})
    source = write(content)
    with pytest.raises(RTDError, match=re.escape(f"{source.path}, record 4: `target_caption` is null (broken")):
        source.load()
    kept = write(content, skip_invalid=True).load()
    assert (kept.triplets, kept.skipped) == (TRIPLETS, 1)


UNREADABLE = {
    "": "holds no triplets",
    " \n\t\n": "holds no triplets",
    "[]": "holds no triplets",
    json.dumps({key: [] for key in COLUMNS}): "holds no triplets",
    json.dumps(COLUMNS)[:-20]: "triplets.txt: broken JSON",
    json.dumps(COLUMNS, indent=1)[:-20]: "broken JSON: Unterminated string starting at (line 14, column 3)",
    json.dumps(RECORDS)[:-1]: "triplets.txt: broken JSON",
    json.dumps(COLUMNS).encode("utf-16"): "triplets.txt: byte 1 is not UTF-8",
    json.dumps(COLUMNS).replace("dog", "d\0g"): "triplets.txt: broken JSON: Invalid control character",
    "[" * 100_000: "triplets.txt: JSON nested too deeply",
    '"text"': "triplets.txt: neither an object nor an array of records",
    json.dumps({**COLUMNS, "target_caption": ["a"]}): (
        "its lists differ in length (`reference_caption` 3, `conditioning_caption` 3, `target_caption` 1)"
    ),
    json.dumps({**COLUMNS, "target_caption": "a"}): "`target_caption` is not a list",
    json.dumps({"reference_caption": ["a"], "target_caption": ["a"]}): "`conditioning_caption` is not a list",
    '{"caption": "a"}\n{"edit": "b"}\n': "record 1 (line 1): `conditioning_caption` or "
    "`edit` or `edit_prompt` is missing (it has caption; set `columns` if one of them is meant)",
    "\0" * 100: "triplets.txt: broken JSON",
}


@pytest.mark.parametrize(("content", "says"), UNREADABLE.items(), ids=UNREADABLE.values())
def test_a_file_without_any_triplet_is_an_error_even_when_skipping(write, content, says):
    source = write(content, skip_invalid=True)
    with pytest.raises(RTDError, match=re.escape(says)) as raised:
        source.load()
    message = str(raised.value)
    assert message.startswith(str(source.path))
    assert "\n" not in message
    assert "skip_invalid" not in message


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path, says in ((tmp_path / "none.json", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(RTDError) as raised:
            JsonTriplets(path=path).load()
        assert str(raised.value) == f"cannot read {path}: {says}; check the path"


def test_the_source_imports_no_torch():
    code = "import sys, rtd_plugin.triplets.sources; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
