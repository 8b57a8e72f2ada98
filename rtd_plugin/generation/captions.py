"""Captions to make triplets of."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from rtd_plugin.errors import RTDError, UsageError
from rtd_plugin.triplets.records import Fault, lines, records, text_fault, text_of

RECORDS = (".json", ".jsonl", ".csv", ".tsv", ".parquet")


class Caption(NamedTuple):
    """A caption and, where it is known, the image that it and others are about."""

    text: str
    image: str | None = None


def read_captions(path: Path, column: str | None = None) -> Iterator[Caption | Fault]:
    """Captions of a file, one at a time; a `Fault` for each that cannot be used.

    Args:
        path: text with a caption a line, or `image#number<TAB>caption` as Flickr8k has it; with a column, JSON lines,
            CSV or Parquet.
        column: which column or key has the captions.

    Raises:
        RTDError: the file cannot be read.
        UsageError: the column is missing from the call.
    """
    if path.suffix.lower() in RECORDS and (column is not None or path.suffix.lower() != ".tsv"):
        if column is None:
            raise UsageError(f"{path}: --column is missing: the column, or key, that has the captions")
        for place, record in records(path, [(column,)]):
            try:
                yield Caption(text_of(record, (column,)))
            except Fault as fault:
                yield Fault(f"{place}: {fault}")
        return
    try:
        with path.open("rb") as file:
            for number, line in lines(file):
                yield _caption(number, line)
    except OSError as error:
        raise RTDError(f"cannot read {path}: {error.strerror or error}; check the path") from error


def _caption(number: int, line: bytes | Fault) -> Caption | Fault:
    if isinstance(line, Fault):
        return Fault(f"line {number:,}: {line}")
    try:
        name, tab, text = line.decode("utf-8-sig" if number == 1 else "utf-8").partition("\t")
    except UnicodeDecodeError as error:
        return Fault(f"line {number:,}: byte {error.start + 1:,} is not UTF-8")
    if not tab:
        name, text = "", name
    if fault := text_fault(text):
        return Fault(f"line {number:,}: the caption is {fault}")
    return Caption(text.strip(), name.partition("#")[0] or None)


def parts(captions: Iterable[Caption], size: int) -> Iterator[list[Caption]]:
    """Cut captions into parts of about `size`, never between two of one image."""
    captions = iter(captions)
    part: list[Caption] = []
    for caption in captions:
        if len(part) >= size and (caption.image is None or caption.image != part[-1].image):
            yield part
            part = []
        part.append(caption)
    if part:
        yield part


def digest(part: Iterable[Caption]) -> str:
    """SHA-256 of captions and their images' names."""
    content = hashlib.sha256()
    for text, image in part:
        content.update(f"{text}\0{image or ''}\0".encode())
    return content.hexdigest()
