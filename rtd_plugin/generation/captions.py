"""Read captions from files in common formats."""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

from rtd_plugin.errors import RTDError
from rtd_plugin.generation.caption_columns import (
    CAPTION_NAMES,
    choose_columns,
    find_caption_fault,
    is_known,
    list_texts,
)
from rtd_plugin.regular_files import open_regular
from rtd_plugin.triplets.records import (
    DELIMITERS,
    Fault,
    Record,
    find_delimiter,
    name_cells,
    read_json,
    read_lines,
    read_parquet,
    read_rows,
    read_to_end,
)

SAMPLE = 100  # records that are read to recognise the form of a file
LINE = "line"  # the only column of a text

log = logging.getLogger(__name__)


class Caption(NamedTuple):
    """A caption.

    Attributes:
        text: the caption.
        image: the image that it describes, as other captions may; None if it is unknown.
    """

    text: str
    image: str | None = None


def read_captions(path: Path, column: str | None = None) -> Iterator[Caption | Fault]:
    """Yield the captions of a file, and a `Fault` for each unusable one; log which column has them.

    Args:
        path: text with a caption a line; a table separated by tabs, commas, semicolons or bars, with column names or
            without; JSON in the shapes of COCO, of Karpathy's splits, of lists, records or lines; Parquet.
        column: the column or key that has the captions, or in a table without names its number from 1. None:
            recognised by its name or the first records.

    Raises:
        RTDError: the file cannot be read.
        UsageError: it is not clear which column has captions, or none has.
    """
    records = _read_records(path, column)
    first = list(islice(records, SAMPLE))
    readable = [record for _, record in first if isinstance(record, Mapping)]
    if not readable:
        yield from (Fault(f"{location}: {record}") for location, record in chain(first, records))
        return
    columns = choose_columns(path, readable, column)
    if columns.caption != LINE:
        images = f", their images' names from {columns.image!r}" if columns.image is not None else ""
        log.info(f"{path}: captions are taken from the column {columns.caption!r}{images}.")
    for location, record in chain(first, records):
        if not isinstance(record, Mapping):
            yield Fault(f"{location}: {record}")
            continue
        image = record.get(columns.image) if columns.image is not None else None
        for text in list_texts(record.get(columns.caption)):
            if fault := find_caption_fault(text):
                yield Fault(f"{location}: the caption is {fault}")
            else:
                yield Caption(str(text).strip(), None if image is None else str(image).partition("#")[0])


def _read_records(path: Path, column: str | None) -> Iterator[Record]:
    """Yield the records of a file; those of a text have the key LINE, those of a table without names numbers from 1."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return read_parquet(path, None)
    try:
        file = open_regular(path)
    except OSError as error:
        raise RTDError(f"cannot read {path}: {error.strerror or error}; check the path") from error
    if suffix in (".json", ".jsonl", ".ndjson"):
        return read_to_end(file, path, read_json(file, _split_json))
    return read_to_end(file, path, _read_text(file, column, suffix in (".csv", ".tsv")))


def _split_json(value: object) -> list[object]:
    """Return the records of a whole JSON file."""
    if isinstance(value, list):
        return [record if isinstance(record, Mapping) else {LINE: record} for record in value]
    if not isinstance(value, dict):
        raise ValueError("neither an object nor an array of records")
    for name in ("annotations", "images"):  # of COCO, and of Karpathy's splits of COCO and Flickr
        records = value.get(name)
        if isinstance(records, list) and any(
            key in record for record in records[:1] if isinstance(record, Mapping) for key in CAPTION_NAMES
        ):
            return records
    if any(name in value for name in CAPTION_NAMES):
        lists = {key: item for key, item in value.items() if isinstance(item, list)}
        if not lists or len({len(item) for item in lists.values()}) > 1:
            return [value]
        return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    return [{"image": image, "captions": captions} for image, captions in value.items()]


def _read_text(file: BinaryIO, column: str | None, is_table: bool) -> Iterator[Record]:
    lines = read_lines(file)
    first = list(islice(lines, SAMPLE))
    delimiter = _find_delimiter([line.decode("utf-8-sig", "replace") for _, line in first if isinstance(line, bytes)])
    if delimiter is None and is_table and first:
        delimiter = find_delimiter(first[0][1])
    lines = chain(first, lines)
    if delimiter is None:
        for line_number, line in lines:
            yield f"line {line_number:,}", line if isinstance(line, Fault) else {LINE: _decode(line_number, line)}
        return
    if delimiter == "\t":
        rows = ((f"line {line_number:,}", _split_cells(line_number, line)) for line_number, line in lines)
    else:
        rows = ((f"record {n:,}{line}", row) for n, (line, row) in enumerate(read_rows(lines, delimiter), 1))
    names: list[str] | None = None
    for location, row in rows:
        if names is None and not isinstance(row, Fault):
            cells = [cell.strip() for cell in row]
            has_names = column in cells or any(map(is_known, cells))
            names = cells if has_names else [str(column_number) for column_number in range(1, len(row) + 1)]
            if has_names:
                continue
        yield location, name_cells(row, names or [])


def _find_delimiter(lines: list[str]) -> str | None:
    """Return the separator of the cells of most lines; None if lines are single captions."""
    if 2 * sum("\t" in line for line in lines) > len(lines):
        return "\t"
    for delimiter in DELIMITERS:
        first_cells = [line.split(delimiter)[0].strip().strip('"') for line in lines if delimiter in line]
        names = sum(find_caption_fault(cell) in ("a URL", "a file name") for cell in first_cells)
        header = [cell.strip().lower() for cell in lines[0].split(delimiter)] if lines else []
        if 2 * names > len(lines) or (len(header) > 1 and all(map(is_known, header))):
            return delimiter
    return None


def _split_cells(line_number: int, line: bytes | Fault) -> list[str] | Fault:
    """Split a tab-separated line. Quotes belong to the text, except those around a whole cell."""
    if isinstance(line, Fault):
        return line
    cells = _decode(line_number, line).split("\t")
    return [cell[1:-1].replace('""', '"') if len(cell) > 1 and cell[0] == cell[-1] == '"' else cell for cell in cells]


def _decode(line_number: int, line: bytes) -> str:
    return line.decode("utf-8-sig" if line_number == 1 else "utf-8", "surrogateescape")


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
