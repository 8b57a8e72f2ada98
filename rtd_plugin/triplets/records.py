"""Files of records, read so that no content, however odd, costs more than bounded memory.

A record comes with its place in the file, and is either a mapping or a `Fault` that says why it is none.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from rtd_plugin.errors import RTDError

LONGEST_LINE = 1 << 20  # bytes; a longer line is no record
LARGEST_WHOLE = 10**9  # bytes of a JSON file that is no JSON lines, which has to be read whole
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
NAMES = ("reference", "condition", "target")
_NOT_TEXT = re.compile("[\0\ud800-\udfff]")  # JSON can spell NUL and half a surrogate pair; UTF-8 lacks the latter

Column = Sequence[str]  # names under which a record may have a text, the first preferred


class Fault(ValueError):
    """What is wrong with a record."""


Record = tuple[str, object]  # where it is, and what: a mapping, a Fault, or nothing that can be used


def lines(file: BinaryIO) -> Iterator[tuple[int, bytes | Fault]]:
    """The filled lines of a file with their numbers; of one that is too long no more than LONGEST_LINE is ever held."""
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = file.readline(LONGEST_LINE)
            yield number, Fault(f"longer than {LONGEST_LINE:,} bytes")
        elif line := line.rstrip():
            yield number, line


def records(path: Path, columns: Sequence[Column]) -> Iterator[Record]:
    """The records of a file, by its ending: .csv and .tsv, .parquet, or JSON in any shape.

    Raises:
        RTDError: the file cannot be read or is not what its ending says.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return parquet_records(path, [column[0] for column in columns])
    try:
        file = path.open("rb")
        file.peek(1)  # a folder opens on some systems, but cannot be read
    except OSError as error:
        raise RTDError(f"cannot read {path}: {error.strerror or error}; check the path") from error
    with_file = csv_records(file, "\t" if suffix == ".tsv" else ",") if suffix in (".csv", ".tsv") else None
    return _closing(file, path, with_file or json_records(file, [column[0] for column in columns]))


def _closing(file: BinaryIO, path: Path, found: Iterator[Record]) -> Iterator[Record]:
    with file:
        try:
            yield from found
        except OSError as error:
            raise RTDError(f"cannot read {path}: {error.strerror or error}; check the path") from error
        except ValueError as fault:
            raise RTDError(f"{path} is not a file of triplets: {fault}; repair it or name another") from fault


def csv_records(file: BinaryIO, delimiter: str = ",") -> Iterator[Record]:
    """The rows of a CSV file by the names in its first row.

    Raises:
        ValueError: the file has no first row.
    """
    faults: list[tuple[int, Fault]] = []

    def decoded() -> Iterator[str]:
        for number, line in lines(file):
            if isinstance(line, Fault):
                faults.append((number, line))
            else:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape")
                yield text + "\n"

    csv.field_size_limit(LONGEST_LINE)
    rows = csv.reader(decoded(), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    count = 0
    while True:
        try:
            row: Sequence[str] | Fault | None = next(rows, None)
        except csv.Error as error:
            row = Fault(f"broken CSV: {error}")
        while faults:
            number, fault = faults.pop(0)
            count += 1
            yield f"record {count:,} (line {number:,})", fault
        if row is None:
            break
        if header is None:
            if isinstance(row, Fault):
                raise row
            header = row
            continue
        count += 1
        place = f"record {count:,}"
        if isinstance(row, Fault):
            yield place, row
        elif len(row) != len(header):
            yield place, Fault(f"{len(row)} fields where the first row has {len(header)}")
        else:
            yield place, dict(zip(header, row, strict=True))
    if header is None:
        raise ValueError("it has no first row with the columns' names")


def parquet_records(path: Path, columns: Sequence[str]) -> Iterator[Record]:
    """The rows of a Parquet file."""
    from rtd_plugin.triplets.arrow_triplets import ParquetTriplets  # pyarrow, which only those wait for who need it

    table = ParquetTriplets(path, columns, lambda values: "")
    for number, values in enumerate(table.rows(), 1):
        yield f"row {number:,}", dict(zip(columns, values, strict=True))


def json_records(file: BinaryIO, lists: Sequence[str]) -> Iterator[Record]:
    """The records of a JSON file: one a line, an array, or one object of lists by the names `lists`.

    Raises:
        ValueError: the file is no JSON, or not of a known shape.
    """
    has_lines = _has_lines(file)
    file.seek(0)
    if has_lines:
        for count, (number, line) in enumerate(lines(file), 1):
            yield f"record {count:,} (line {number:,})", line if isinstance(line, Fault) else _parsed(line)
        return
    if (size := file.seek(0, 2)) > LARGEST_WHOLE:
        raise ValueError(
            f"{size:,} bytes that are no JSON lines, and no more than {LARGEST_WHOLE:,} are read whole "
            "(write one record a line)"
        )
    file.seek(0)
    if content := file.read().rstrip():
        for count, record in enumerate(_split(parse(content), lists), 1):
            yield f"record {count:,}", record


def _has_lines(file: BinaryIO) -> bool:
    """Whether a file is JSON lines, told from its first two filled lines, either of which may be broken."""
    filled = (line for _, line in lines(file))
    first, second = next(filled, b""), next(filled, b"")
    if not second or (isinstance(first, bytes) and first.removeprefix(BYTE_ORDER_MARK).lstrip().startswith(b"[")):
        return False
    if isinstance(second, bytes) and second.lstrip().startswith(b"{"):  # in an object of lists no line begins so
        return True
    return isinstance(first, bytes) and isinstance(_parsed(first), dict)


def _split(value: object, lists: Sequence[str]) -> list[object]:
    """The records of a whole JSON file."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        raise ValueError("neither an object nor an array of records")
    if not any(isinstance(value.get(key), list) for key in lists):
        return [value]  # JSON lines with a single record
    for key in lists:
        if not isinstance(value.get(key), list):
            raise ValueError(f"`{key}` is no list")
    columns = [value[key] for key in lists]
    if len(set(map(len, columns))) > 1:
        lengths = ", ".join(f"`{key}` {len(column):,}" for key, column in zip(lists, columns, strict=True))
        raise ValueError(f"its lists differ in length ({lengths})")
    return [dict(zip(lists, texts, strict=True)) for texts in zip(*columns, strict=True)]


def _parsed(line: bytes) -> object:
    try:
        return parse(line)
    except ValueError as error:
        return Fault(str(error))


def parse(content: bytes) -> object:
    """A JSON value; ValueError says where it breaks."""
    try:
        return json.loads(content.removeprefix(BYTE_ORDER_MARK).decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1:,} is not UTF-8") from error
    except json.JSONDecodeError as error:
        line = f"line {error.lineno:,}, " if error.lineno > 1 else ""
        raise ValueError(f"broken JSON: {error.msg} ({line}column {error.colno:,})") from error
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error


def text_of(record: object, column: Column) -> str:
    """A record's text under the first of its column's names that it has.

    Raises:
        Fault: it has none, or what it has is no text, or an empty one.
    """
    if isinstance(record, Fault):
        raise record
    if not isinstance(record, (dict, Mapping)):  # asking for a dict first takes a tenth of the time
        raise Fault("not an object")
    for key in column:
        if key in record:
            break
    else:
        raise Fault(f"{' or '.join(f'`{name}`' for name in column)} is missing")
    if fault := text_fault(record[key]):
        raise Fault(f"`{key}` is {fault}")
    return record[key]


def text_fault(text: object) -> str:
    """What keeps a value from being a caption or a condition, "" for nothing."""
    if isinstance(text, str) and text.isascii() and text[:1].isalnum() and "\0" not in text:
        return ""  # nearly always, and sooner than by what follows
    if isinstance(text, str) and not _NOT_TEXT.search(text):
        # Not the text alone: "$" is taken out before training, as `clip.tokens.clean_caption` does.
        return "" if text.replace("$", "").strip() else "empty"
    if isinstance(text, str) and any("\udc80" <= letter <= "\udcff" for letter in text):
        return "not UTF-8"
    return "null" if text is None else "not text"


def columns_of(mapping: Mapping[str, str]) -> list[Column]:
    """A column for each text of a triplet from the names that a user gives.

    Raises:
        ValueError: a name is unknown.
    """
    for name in mapping:
        if name not in NAMES:
            raise ValueError(f"{name!r} is none of {', '.join(NAMES)}")
    return [(mapping.get(name, name),) for name in NAMES]


def with_places(found: Iterable[object], what: str = "record") -> Iterator[Record]:
    """Number records that have no file."""
    return ((f"{what} {number:,}", record) for number, record in enumerate(found, 1))
