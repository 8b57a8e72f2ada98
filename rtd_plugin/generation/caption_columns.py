"""Find the columns of captions and of image names in a file, by the columns' names or contents."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rtd_plugin.errors import UsageError
from rtd_plugin.triplets.records import find_fault

# Names of columns in lower case, by precedence: of Flickr8k and Flickr30k, COCO, img2dataset, LAION, SBU and shops.
CAPTION_NAMES = (
    "caption", "captions", "text", "sentence", "sentences", "comment", "raw", "alt_text", "alt", "title", "description",
)  # fmt: skip
IMAGE_NAMES = (
    "image", "image_name", "image_id", "img", "filename", "file_name", "file", "name", "key", "url", "image_url", "id",
)  # fmt: skip
AMBIGUOUS = 0.5  # of the words in the best column: another column with more words is ambiguous
_URL = re.compile(r"(?:(?:[a-z][a-z0-9+.-]*:)?//|www\.|data:)\S+", re.IGNORECASE)
_IMAGE_FILE = re.compile(r".*\.(?:jpe?g|png|gif|webp|bmp|tiff?|heic|avif)(?:#\w+)?", re.IGNORECASE)


class CaptionColumns(NamedTuple):
    """Where captions are in records.

    Attributes:
        caption: the key of captions.
        image: the key of their images' names, None without one.
    """

    caption: str
    image: str | None


def find_caption_fault(text: object) -> str:
    """Return why a value is not a caption; "" if it is one."""
    if (fault := find_fault(text)) or not isinstance(text, str):
        return fault
    text = text.strip()
    return "a URL" if _URL.fullmatch(text) else "a file name" if _IMAGE_FILE.fullmatch(text) else ""


def list_texts(value: object) -> Iterator[object]:
    """Yield the captions in a value: itself, or those in a list and under the keys of captions in objects."""
    if isinstance(value, list):
        for item in value:
            yield from list_texts(item)
    elif isinstance(value, Mapping):
        yield from list_texts(next((value[name] for name in CAPTION_NAMES if name in value), None))
    else:
        yield value


def choose_columns(path: Path, records: Sequence[Mapping[str, object]], column: str | None) -> CaptionColumns:
    """Choose the columns of captions and of images' names, by the first records.

    Args:
        path: the file, for messages.
        records: at least one.
        column: the captions' column, if it is known.

    Raises:
        UsageError: there is no such column, no column has captions, or several may have them.
    """
    names = list(dict.fromkeys(name for record in records for name in record))
    if column is not None and column not in names:
        raise UsageError(f"{path}: has no column {column!r}, only {', '.join(map(repr, names))}: pass another --column")
    if column is None:
        words = {name: _count_words(records, name) for name in names}
        column = _find_name(CAPTION_NAMES, [name for name in names if words[name]]) or max(names, key=words.__getitem__)
        if not words[column]:
            raise UsageError(f"{path}: holds no captions, but {_describe(records, names)}: name another file")
        rivals = [name for name in names if name != column and words[name] > AMBIGUOUS * words[column]]
        if rivals and not _find_name(CAPTION_NAMES, [column]):
            columns = ", ".join(map(repr, [column, *rivals]))
            raise UsageError(f"{path}: captions may be in any of the columns {columns}: pass --column with one of them")
    remaining = [name for name in names if name != column]
    image = _find_name(IMAGE_NAMES, remaining) or next(
        (name for name in remaining if _names_images(records, name)), None
    )
    return CaptionColumns(column, image)


def _find_name(candidates: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for candidate in candidates for name in names if name.strip().lower() == candidate), None)


def is_known(name: str) -> bool:
    """Return whether a column's name is known."""
    return _find_name((*CAPTION_NAMES, *IMAGE_NAMES), [name]) is not None


def _count_words(records: Sequence[Mapping[str, object]], name: str) -> float:
    """Return the mean number of words of a column's captions; other values count as 0 words."""
    texts = [text for record in records for text in list_texts(record.get(name))]
    words = [len(re.findall(r"[^\W\d_]+", str(text))) for text in texts if not find_caption_fault(text)]
    return sum(words) / max(1, len(texts))


def _names_images(records: Sequence[Mapping[str, object]], name: str) -> bool:
    return all(find_caption_fault(record.get(name)).startswith("a ") for record in records)


def _describe(records: Sequence[Mapping[str, object]], names: Sequence[str]) -> str:
    """Return what is in each column instead of captions."""
    examples = [(name, next(list_texts(records[0].get(name)), None)) for name in names]
    return ", ".join(f"{find_caption_fault(text) or 'no words'} in {name!r}" for name, text in examples)
