"""Text triplets in JSON: the file that RTD's authors distribute, and JSON lines as InstructPix2Pix publishes them."""

import hashlib
import json
import re
from collections.abc import Iterator
from typing import BinaryIO, ClassVar

from rtd_plugin.errors import RTDError
from rtd_plugin.hookspecs import hookimpl
from rtd_plugin.paths import RecipePath
from rtd_plugin.triplets.triplet import Triplet, TripletSet, TripletSource

# The authors' key comes first, InstructPix2Pix's follow; in the order of Triplet's fields.
_KEYS = (("reference_caption", "caption", "input"), ("conditioning_caption", "edit"), ("target_caption", "output"))
_NOT_TEXT = re.compile("[\0\ud800-\udfff]")  # JSON can spell NUL and half a surrogate pair; UTF-8 lacks the latter


class JsonTriplets(TripletSource):
    """Triplets of a JSON or JSON-lines file, UTF-8; its shape is found from its content.

    - one object with the lists `reference_caption`, `conditioning_caption` and `target_caption`;
    - an array of records with these keys;
    - JSON lines, one record a line.

    A record may have InstructPix2Pix's keys instead: `caption` or `input`, `edit`, `output`. Other keys are ignored.

    Attributes:
        path: the file.
        skip_invalid: leave broken records out and count them, instead of stopping at them.
    """

    name: ClassVar[str] = "json"

    path: RecipePath
    skip_invalid: bool = False

    def load(self) -> TripletSet:
        """Read all triplets; captions stay as they are written.

        Returns:
            The triplets in file order, the SHA-256 of their content in hexadecimal, the number of skipped records.

        Raises:
            RTDError: the file cannot be read or holds no triplet, or a record is broken and skip_invalid is not set.
        """
        triplets: list[Triplet] = []
        digest = hashlib.sha256()
        broken, first_fault = 0, ""
        try:
            with self.path.open("rb") as file:
                for place, record in _records(file):
                    try:
                        triplet = _triplet(_parse(record) if isinstance(record, bytes) else record)
                    except ValueError as fault:
                        first_fault = first_fault or f"{place}: {fault}"
                        broken += 1
                    else:
                        triplets.append(triplet)
                        digest.update("".join(f"{text}\0" for text in triplet).encode())  # NUL is in no caption
        except OSError as error:
            raise RTDError(f"cannot read the triplets {self.path}: {error.strerror or error}; check `path`") from error
        except ValueError as fault:
            raise RTDError(f"{self.path} is not a file of triplets: {fault}; repair it or name another") from fault
        if broken and not (self.skip_invalid and triplets):
            remedy = "repair the file" if self.skip_invalid else "repair the file or set `skip_invalid: true`"
            count = f"broken records: {broken:,} of {broken + len(triplets):,}"
            raise RTDError(f"{self.path}, {first_fault} ({count}); {remedy}")
        if not triplets:
            raise RTDError(f"{self.path} holds no triplets; name a file that has some")
        return TripletSet(triplets, digest.hexdigest(), broken)


@hookimpl
def rtd_triplet_sources() -> list[type[TripletSource]]:
    """The source `json`."""
    return [JsonTriplets]


def _records(file: BinaryIO) -> Iterator[tuple[str, object]]:
    """Where each record stands, and the record: an undecoded line of JSON lines, else an object.

    Raises:
        ValueError: the file is no JSON, or not of a known shape.
    """
    has_lines = _has_lines(file)
    file.seek(0)
    if has_lines:  # line by line: only the captions are kept in memory, whatever else the file holds
        filled = ((number, line.rstrip()) for number, line in enumerate(file, 1) if line.strip())
        yield from ((f"record {count:,} (line {number:,})", line) for count, (number, line) in enumerate(filled, 1))
    elif content := file.read().rstrip():
        yield from ((f"record {count:,}", record) for count, record in enumerate(_split(_parse(content)), 1))


def _has_lines(file: BinaryIO) -> bool:
    """Whether a file is JSON lines, told from its first two filled lines, either of which may be broken."""
    filled = (line for line in file if line.strip())
    first, second = next(filled, b""), next(filled, b"")
    if not second or first.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        return False
    if second.lstrip().startswith(b"{"):  # in an object of lists no line begins so
        return True
    try:
        return isinstance(_parse(first), dict)
    except ValueError:
        return False


def _split(value: object) -> list[object]:
    """The records of a whole JSON file."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        raise ValueError("neither an object nor an array of records")
    keys = [names[0] for names in _KEYS]
    if not any(isinstance(value.get(key), list) for key in keys):
        return [value]  # JSON lines with a single record
    for key in keys:
        if not isinstance(value.get(key), list):
            raise ValueError(f"`{key}` is no list")
    columns = [value[key] for key in keys]
    if len(set(map(len, columns))) > 1:
        lengths = ", ".join(f"`{key}` {len(column):,}" for key, column in zip(keys, columns, strict=True))
        raise ValueError(f"its lists differ in length ({lengths})")
    return [dict(zip(keys, texts, strict=True)) for texts in zip(*columns, strict=True)]


def _triplet(record: object) -> Triplet:
    """A triplet from a record of either naming; ValueError says what is wrong with the record."""
    # It brings torch along, which the command line's help must not wait for.
    from rtd_plugin.clip.tokens import clean_caption

    if not isinstance(record, dict):
        raise ValueError("not an object")
    texts = []
    for names in _KEYS:
        key = next((name for name in names if name in record), None)
        if key is None:
            raise ValueError(f"{' or '.join(f'`{name}`' for name in names)} is missing")
        text = record[key]
        if not isinstance(text, str) or _NOT_TEXT.search(text):
            raise ValueError(f"`{key}` is {'null' if text is None else 'not text'}")
        if not clean_caption(text):  # not the caption alone: "$" is taken out before training
            raise ValueError(f"`{key}` is empty")
        texts.append(text)
    return Triplet(*texts)


def _parse(content: bytes) -> object:
    """A JSON value; ValueError says where it breaks."""
    try:
        return json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1:,} is not UTF-8") from error
    except json.JSONDecodeError as error:
        line = f"line {error.lineno:,}, " if error.lineno > 1 else ""
        raise ValueError(f"broken JSON: {error.msg} ({line}column {error.colno:,})") from error
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error
