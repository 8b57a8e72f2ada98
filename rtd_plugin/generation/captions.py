"""Read captions to make triplets of."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from rtd_plugin.errors import RTDError, UsageError
from rtd_plugin.regular_files import open_regular
from rtd_plugin.triplets.records import Fault, find_fault, get_text, read_lines, read_records

RECORD_SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet")


class Caption(NamedTuple):
    """A caption.

    Attributes:
        text: the caption.
        image: the image that it describes, as other captions may; None if it is unknown.
    """

    text: str
    image: str | None = None


def read_captions(path: Path, column: str | None = None) -> Iterator[Caption | Fault]:
    """Yield the captions of a file, a `Fault` in place of each that cannot be used.

    Args:
        path: text with a caption a line, or lines `image#index<TAB>caption` as Flickr8k has them; with a column, JSON
            lines, CSV or Parquet.
        column: the column or key that has the captions.

    Raises:
        RTDError: the file cannot be read.
        UsageError: the file has records, and `column` is None.
    """
    if path.suffix.lower() in RECORD_SUFFIXES and (column is not None or path.suffix.lower() != ".tsv"):
        if column is None:
            raise UsageError(f"{path}: --column is missing: the column, or key, that has the captions")
        for location, record in read_records(path, [(column,)]):
            try:
                yield Caption(get_text(record, (column,)))
            except Fault as fault:
                yield Fault(f"{location}: {fault}")
        return
    try:
        with open_regular(path) as file:
            for line_number, line in read_lines(file):
                yield _parse_caption(line_number, line)
    except OSError as error:
        raise RTDError(f"cannot read {path}: {error.strerror or error}; check the path") from error


def _parse_caption(line_number: int, line: bytes | Fault) -> Caption | Fault:
    if isinstance(line, Fault):
        return Fault(f"line {line_number:,}: {line}")
    try:
        name, tab, text = line.decode("utf-8-sig" if line_number == 1 else "utf-8").partition("\t")
    except UnicodeDecodeError as error:
        return Fault(f"line {line_number:,}: byte {error.start + 1:,} is not UTF-8")
    if not tab:
        name, text = "", name
    if fault := find_fault(text):
        return Fault(f"line {line_number:,}: the caption is {fault}")
    return Caption(text.strip(), name.partition("#")[0] or None)


def split_captions(captions: Iterable[Caption], size: int) -> Iterator[list[Caption]]:
    """Split captions into chunks of at least `size`; consecutive captions of one image stay together."""
    chunk: list[Caption] = []
    for caption in captions:
        if len(chunk) >= size and (caption.image is None or caption.image != chunk[-1].image):
            yield chunk
            chunk = []
        chunk.append(caption)
    if chunk:
        yield chunk


def hash_captions(captions: Iterable[Caption]) -> str:
    """Return the SHA-256 of captions and their images, in hexadecimal."""
    content = hashlib.sha256()
    for text, image in captions:
        content.update(f"{text}\0{image or ''}\0".encode())
    return content.hexdigest()
