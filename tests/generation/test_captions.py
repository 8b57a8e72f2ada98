"""Captions are read from files in common formats; URLs and names of files are never captions."""

import json
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rtd_plugin.errors import RTDError
from rtd_plugin.generation.captions import Caption, read_captions
from rtd_plugin.triplets.records import Fault

DOGS, CATS = "A brown dog runs over the grass .", 'Two cats , "Tom" and Max , sleep .'
URL = "https://images.example/a/red-dog-on-grass.jpg"
PLAIN = [Caption(DOGS), Caption(CATS)]
NAMED = [Caption(DOGS, "1.jpg"), Caption(CATS, "2.jpg")]
QUOTED = '"Two cats , ""Tom"" and Max , sleep ."'
TEXTS = {
    "lines": (".txt", f"{DOGS}\n\n{CATS}\n", PLAIN),
    "lines, byte order mark": (".txt", f"\ufeff{DOGS}\r\n{CATS}", PLAIN),
    "CC3M: caption, URL": (".tsv", f"{DOGS}\t{URL}\n{CATS}\t{URL}\n", [Caption(DOGS, URL), Caption(CATS, URL)]),
    "CC12M: URL, caption": (".tsv", f"{URL}\t{DOGS}\n{URL}\t{CATS}\n", [Caption(DOGS, URL), Caption(CATS, URL)]),
    "URL without a scheme": ("", f"//a.example/x\t{DOGS}\nwww.b.example/y\t{CATS}\n", None),
    "Flickr8k: name#n": (".token.txt", f"1.jpg#0\t{DOGS}\n2.jpg#0\t{CATS}\n", NAMED),
    "name, caption": ("", f"1.jpg\t{DOGS}\n2.jpg\t{CATS}\n", NAMED),
    "caption, name": (".tsv", f"{DOGS}\t1.jpg\n{CATS}\t2.jpg\n", NAMED),
    "index, name, caption": (".tsv", f"0\t1.jpg\t{DOGS}\n1\t2.jpg\t{CATS}\n", NAMED),
    "img2dataset: names": (".tsv", f"url\tcaption\n{URL}\t{DOGS}\n{URL}\t{QUOTED}\n", None),
    "img2dataset: CSV": (".csv", f'key,caption,url,status\n1.jpg,"{DOGS}",{URL},success\n2.jpg,{QUOTED},,x\n', NAMED),
    "Flickr8k: Kaggle": (".txt", f"image,caption\n1.jpg,{DOGS}\n2.jpg,{QUOTED}\n", NAMED),
    "Flickr8k: no names": (".txt", f"1.jpg,{DOGS}\n2.jpg,{QUOTED}\n", NAMED),
    "Flickr30k: bars": (".csv", f"image_name| comment_number| comment\n1.jpg| 0| {DOGS}\n2.jpg| 0| {CATS}\n", NAMED),
    "a spreadsheet: semicolons": (".csv", f"title;price\n{DOGS};3,50\n{QUOTED};4\n", PLAIN),
    "unknown names": (".csv", f"Beschreibung,Preis\n{DOGS},3\n{QUOTED},4\n", None),
    "a column": (".csv", f"caption\n{DOGS}\n{QUOTED}\n", PLAIN),
}
VALUES = {
    "COCO": {
        "images": [{"id": 1, "file_name": "1.jpg"}],
        "annotations": [{"image_id": 1, "id": 5, "caption": DOGS}, {"image_id": 2, "id": 6, "caption": CATS}],
    },
    "Karpathy": {
        "dataset": "flickr8k",
        "images": [
            {"filename": "1.jpg", "sentences": [{"raw": DOGS, "tokens": ["a"]}]},
            {"filename": "2.jpg", "sentences": [{"raw": CATS, "tokens": ["a"]}]},
        ],
    },
    "SBU": {"image_urls": [URL, URL], "captions": [DOGS, CATS]},
    "image to captions": {"1.jpg": [DOGS], "2.jpg": [CATS]},
    "image to caption": {"1.jpg": DOGS, "2.jpg": CATS},
    "records": [{"image": "1.jpg", "text": DOGS}, {"image": "2.jpg", "text": CATS}],
    "records of several": [{"image": "1.jpg", "captions": [DOGS, CATS]}],
    "texts": [DOGS, CATS],
}


def texts_of(found):
    found = list(found)
    assert not [str(item) for item in found if isinstance(item, Fault)]
    return [caption.text for caption in found]


@pytest.mark.parametrize(("suffix", "content", "expected"), TEXTS.values(), ids=TEXTS)
def test_every_form_of_text(tmp_path, suffix, content, expected):
    path = tmp_path / f"captions{suffix}"
    path.write_bytes(content.encode())
    found = [item for item in read_captions(path) if item != Caption("Beschreibung", None)]
    assert texts_of(found) == [DOGS, CATS]
    assert found == expected or expected is None


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("indent", [None, 1])
def test_every_form_of_json(tmp_path, value, indent):
    path = tmp_path / "captions.json"
    path.write_text(json.dumps(value, indent=indent))
    found = list(read_captions(path))
    assert texts_of(found) == [DOGS, CATS]
    assert (found[0].image is None) == (value == [DOGS, CATS])


def test_captions_of_one_image_have_one_name(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text(f"1.jpg#0\t{DOGS}\n1.jpg#1\t{CATS}\n")
    assert [caption.image for caption in read_captions(path)] == ["1.jpg", "1.jpg"]


def test_json_lines_and_parquet(tmp_path):
    rows = [{"key": "1.jpg", "caption": DOGS, "url": URL, "width": 3}, {"key": "2.jpg", "caption": CATS, "url": URL}]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    pq.write_table(pa.table({"image_id": ["1.jpg"], "caption": [[DOGS, CATS]]}), tmp_path / "lists.parquet")
    for name in ("c.jsonl", "c.parquet"):
        assert list(read_captions(tmp_path / name)) == NAMED
    assert texts_of(read_captions(tmp_path / "lists.parquet")) == [DOGS, CATS]


def test_the_column_is_reported(tmp_path, caplog):
    path = tmp_path / "c.tsv"
    path.write_text(f"{DOGS}\t{URL}\n")
    with caplog.at_level(logging.INFO):
        list(read_captions(path))
    assert caplog.messages == [f"{path}: captions are taken from the column '1', their images' names from '2'."]


def test_a_column_is_named_or_numbered(tmp_path):
    (tmp_path / "c.csv").write_text(f"mine,caption\n{DOGS},other words here\n")
    assert list(read_captions(tmp_path / "c.csv", "mine")) == PLAIN[:1]
    with pytest.raises(RTDError, match="has no column 'nonsense', only 'mine', 'caption': pass another --column"):
        list(read_captions(tmp_path / "c.csv", "nonsense"))
    (tmp_path / "c.tsv").write_text(f"{DOGS}\tein Hund rennt über das Gras\n{CATS}\tzwei Katzen schlafen jetzt\n")
    with pytest.raises(RTDError, match="captions may be in any of the columns '1', '2': pass --column with one of"):
        list(read_captions(tmp_path / "c.tsv"))
    assert texts_of(read_captions(tmp_path / "c.tsv", "1")) == [DOGS, CATS]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (f"{URL}\n{URL}\n", "holds no captions, but a URL in 'line'"),
        ("my dog.JPG\n1.png#0\n", "holds no captions, but a file name in 'line'"),
        (f"1.jpg\t{URL}\n", "holds no captions, but a file name in '1', a URL in '2'"),
        ("1\n2\n", "holds no captions, but no words in 'line'"),
    ],
)
def test_urls_and_file_names_are_not_captions(tmp_path, content, says):
    (tmp_path / "c.txt").write_text(content)
    with pytest.raises(RTDError, match=says):
        list(read_captions(tmp_path / "c.txt"))


def test_captions_that_cannot_be_used_are_faults(tmp_path):
    path = tmp_path / "c.tsv"
    path.write_bytes(
        b"1.jpg#0\ta dog .\n2.jpg#0\t caf\xe9\n2.jpg#1\t $ \n3.jpg\tx\0y\n a cat \n4.jpg\thttp://x.y/z\n5.jpg\ta cat\n"
    )
    found = list(read_captions(path))
    assert [c for c in found if isinstance(c, Caption)] == [("a dog .", "1.jpg"), ("a cat", "5.jpg")]
    assert [str(c) for c in found if isinstance(c, Fault)] == [
        "line 2: the caption is not UTF-8",
        "line 3: the caption is empty",
        "line 4: the caption is not text (a NUL character)",
        "line 5: 1 field where the first row has 2",
        "line 6: the caption is a URL",
    ]


def test_a_tab_in_a_caption_is_part_of_it(tmp_path):
    (tmp_path / "c.txt").write_text(f"{DOGS}\na dog\tand a cat\n{CATS}\n")
    assert texts_of(read_captions(tmp_path / "c.txt")) == [DOGS, "a dog\tand a cat", CATS]
