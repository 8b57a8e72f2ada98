"""Read files of records in bounded memory, whatever they contain.

A record is a pair of its location in the file and its value: a mapping, or a `Fault` that says why it cannot be read.
"""

import csv
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

from rtd_plugin.errors import RTDError, require_extra
from rtd_plugin.printable import count_noun
from rtd_plugin.regular_files import open_regular

MAX_LINE_BYTES = 1 << 20  # a longer line counts as a broken record
MAX_JSON_BYTES = 10**9  # of a JSON file other than JSON lines, which is read whole
SHOWN_KEYS = 8  # of a record, in a message
DELIMITERS = (",", ";", "\t", "|")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NOT_TEXT = re.compile("[\0\ud800-\udfff]")  # JSON can spell NUL and half a surrogate pair; UTF-8 lacks the latter

Column = Sequence[str]  # the names under which a record may have a text, by precedence


class Fault(ValueError):
    """A problem of a record."""


Record = tuple[str, object]


def read_lines(file: BinaryIO) -> Iterator[tuple[int, bytes | Fault]]:
    """Yield the non-blank lines of a file with their numbers from 1; at most MAX_LINE_BYTES of one are in memory."""
    line_number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        line_number += 1
        if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE_BYTES)
            yield line_number, Fault(f"longer than {MAX_LINE_BYTES:,} bytes")
        elif line.strip():
            yield line_number, line.rstrip(b"\r\n")


def read_records(path: Path, columns: Sequence[Column]) -> Iterator[Record]:
    """Yield the records of a file: .csv and .tsv, .parquet, or JSON in any shape, by its suffix.

    Raises:
        RTDError: the file cannot be read or is not what its suffix says.
    """
    suffix = path.suffix.lower()
    names = [column[0] for column in columns]
    if suffix == ".parquet":
        return read_parquet(path, names)
    try:
        file = open_regular(path)
    except OSError as error:
        raise RTDError(f"cannot read {path}: {error.strerror or error}; check the path") from error
    if suffix in (".csv", ".tsv"):
        return read_to_end(file, path, read_csv(file, names))
    return read_to_end(file, path, read_json(file, partial(_split_json, columns=columns)))


def read_to_end(file: BinaryIO, path: Path, records: Iterator[Record]) -> Iterator[Record]:
    """Yield records of a file and close it.

    Raises:
        RTDError: the file cannot be read, or is not what its reader expects.
    """
    with file:
        try:
            yield from records
        except OSError as error:
            raise RTDError(f"cannot read {path}: {error.strerror or error}; check the path") from error
        except ValueError as fault:
            raise RTDError(f"{path}: {fault}; repair it or name another") from fault


def read_csv(file: BinaryIO, names: Sequence[str] = ()) -> Iterator[Record]:
    """Yield the rows of a CSV file as mappings with the keys of its first row.

    Cells are separated by commas, semicolons, tabs or bars: by the most frequent of them in the first row.

    Raises:
        ValueError: the first row is missing, broken, or lacks one of `names`.
    """
    lines = read_lines(file)
    first = list(islice(lines, 1))
    rows = read_rows(chain(first, lines), find_delimiter(*(line for _, line in first)))
    header = next((row for _, row in rows), None)
    if header is None:
        raise ValueError("the first row with the column names is missing")
    if isinstance(header, Fault):
        raise header
    for name in names:
        if name not in header:
            raise ValueError(f"it has no column {name!r}, only {', '.join(map(repr, header))}: name its columns")
    for count, (line, row) in enumerate(rows, 1):
        yield f"record {count:,}{line}", name_cells(row, header)


def find_delimiter(line: bytes | Fault = b"") -> str:
    """Return the separator of the cells of a table, given its first line."""
    return max(DELIMITERS, key=line.decode(errors="replace").count) if isinstance(line, bytes) else DELIMITERS[0]


def read_rows(lines: Iterable[tuple[int, bytes | Fault]], delimiter: str) -> Iterator[tuple[str, list[str] | Fault]]:
    """Yield the rows of a table, a Fault for each broken one, with " (line n)" after a line that is too long, or ""."""
    faults: list[tuple[int, Fault]] = []

    def decode_lines() -> Iterator[str]:
        for line_number, line in lines:
            if isinstance(line, Fault):
                faults.append((line_number, line))
            else:
                yield line.decode("utf-8-sig" if line_number == 1 else "utf-8", "surrogateescape") + "\n"

    csv.field_size_limit(MAX_LINE_BYTES)
    rows = csv.reader(decode_lines(), delimiter=delimiter, strict=True)
    while True:
        try:
            row: list[str] | Fault | None = next(rows, None)
        except csv.Error as error:
            row = Fault(f"broken CSV: {error}")
        while faults:
            line_number, fault = faults.pop(0)
            yield f" (line {line_number:,})", fault
        if row is None:
            return
        yield "", row


def name_cells(row: Sequence[str] | Fault, names: Sequence[str]) -> object:
    """Return a row as a record, a Fault if it has more or fewer cells than there are names."""
    if isinstance(row, Fault) or len(row) == len(names):
        return row if isinstance(row, Fault) else dict(zip(names, row, strict=True))
    return Fault(f"{count_noun(len(row), 'field')} where the first row has {len(names)}")


def read_parquet(path: Path, names: Sequence[str] | None) -> Iterator[Record]:
    """Yield the rows of a Parquet file, with the columns `names`, or all that hold text."""
    with require_extra("train", "a Parquet file"):
        from rtd_plugin.triplets.arrow_triplets import ParquetTriplets  # imports pyarrow, which other files do not need

    table = ParquetTriplets(path, names, lambda values: "")
    for row, values in enumerate(table.rows(), 1):
        yield f"row {row:,}", dict(zip(table.columns, values, strict=True))


def read_json(file: BinaryIO, split: Callable[[object], Sequence[object]]) -> Iterator[Record]:
    """Yield the records of a JSON file: one a line, or those that `split` finds in the value of the whole file.

    Raises:
        ValueError: the file is not JSON, or not of a known shape.
    """
    has_lines = _has_json_lines(file)
    file.seek(0)
    if has_lines:
        for count, (line_number, line) in enumerate(read_lines(file), 1):
            yield f"record {count:,} (line {line_number:,})", line if isinstance(line, Fault) else _parse_line(line)
        return
    if (size := file.seek(0, 2)) > MAX_JSON_BYTES:
        raise ValueError(
            f"{size:,} bytes that are not JSON lines, and at most {MAX_JSON_BYTES:,} are read whole "
            "(write one record a line)"
        )
    file.seek(0)
    if content := file.read().rstrip():
        for count, record in enumerate(split(parse_json(content)), 1):
            yield f"record {count:,}", record


def _has_json_lines(file: BinaryIO) -> bool:
    """Return whether the first two non-blank lines, one of which may be broken, are JSON lines."""
    lines = (line for _, line in read_lines(file))
    first, second = next(lines, b""), next(lines, b"")
    if not second or (isinstance(first, bytes) and first.removeprefix(BYTE_ORDER_MARK).lstrip().startswith(b"[")):
        return False
    if isinstance(second, bytes) and second.lstrip().startswith(b"{"):  # an object of lists has no such second line
        return True
    return isinstance(first, bytes) and isinstance(_parse_line(first), dict)


def _split_json(value: object, columns: Sequence[Column]) -> list[object]:
    """Return the records of a whole JSON file: an array, or an object of lists."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        raise ValueError("neither an object nor an array of records")
    names = [next((name for name in column if isinstance(value.get(name), list)), column[0]) for column in columns]
    if not any(isinstance(value.get(name), list) for name in names):
        return [value]  # JSON lines with a single record
    for name in names:
        if not isinstance(value.get(name), list):
            raise ValueError(f"`{name}` is not a list")
    columns = [value[name] for name in names]
    if len(set(map(len, columns))) > 1:
        lengths = ", ".join(f"`{name}` {len(column):,}" for name, column in zip(names, columns, strict=True))
        raise ValueError(f"its lists differ in length ({lengths})")
    return [dict(zip(names, texts, strict=True)) for texts in zip(*columns, strict=True)]


def _parse_line(line: bytes) -> object:
    try:
        return parse_json(line)
    except ValueError as error:
        return Fault(str(error))


def parse_json(content: bytes) -> object:
    """Parse a JSON value.

    Raises:
        ValueError: the content is broken; the message says where.
    """
    try:
        return json.loads(content.removeprefix(BYTE_ORDER_MARK).decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1:,} is not UTF-8") from error
    except json.JSONDecodeError as error:
        line = f"line {error.lineno:,}, " if error.lineno > 1 else ""
        raise ValueError(f"broken JSON: {error.msg} ({line}column {error.colno:,})") from error
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error
    except ValueError as error:  # Python converts no integer of more digits
        raise ValueError(f"an integer of more than {sys.get_int_max_str_digits():,} digits") from error


def get_text(record: object, column: Column) -> str:
    """Return a record's text under the first name of a column that it has.

    Raises:
        Fault: the text is missing, empty, or not a text.
    """
    if isinstance(record, Fault):
        raise record
    if not isinstance(record, (dict, Mapping)):  # `dict` first: checking for a Mapping alone takes ten times as long
        raise Fault("not an object")
    for name in column:
        if name in record:
            break
    else:
        keys = ", ".join(map(str, islice(record, SHOWN_KEYS)))
        advice = f" (it has {keys}; set `columns` if one of them is meant)" if record else ""
        raise Fault(f"{' or '.join(f'`{name}`' for name in column)} is missing{advice}")
    if fault := find_fault(record[name]):
        raise Fault(f"`{name}` is {fault}")
    return record[name]


def find_fault(text: object) -> str:
    """Return why a value is not a caption or a condition; "" if it is one."""
    if isinstance(text, str) and text.isascii() and text[:1].isalnum() and "\0" not in text:
        return ""  # a fast path for nearly all texts
    if isinstance(text, str) and not _NOT_TEXT.search(text):
        # Training removes "$", as `clip.tokens.clean_caption` does.
        return "" if text.replace("$", "").strip() else "empty"
    if isinstance(text, str) and any("\udc80" <= letter <= "\udcff" for letter in text):
        return "not UTF-8"
    if isinstance(text, str):
        return f"not text ({'a NUL character' if chr(0) in text else 'half a surrogate pair'})"
    return "null" if text is None else "not text"


def add_locations(values: Iterable[object], unit: str) -> Iterator[Record]:
    """Turn values into records that are located by their position, counted in `unit` from 1."""
    return ((f"{unit} {position:,}", value) for position, value in enumerate(values, 1))
