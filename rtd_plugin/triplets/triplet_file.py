"""The names of a triplet's texts in files, and the JSON lines that this package writes."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rtd_plugin.triplets.records import Column
from rtd_plugin.triplets.triplet import Triplet

KEYS = ("reference_caption", "conditioning_caption", "target_caption")  # of the file that RTD's authors distribute
# Keys of the authors, of InstructPix2Pix on its site and on Hugging Face, and of UltraEdit.
JSON_COLUMNS: tuple[Column, ...] = (
    (KEYS[0], "caption", "input", "original_prompt", "source_caption"),
    (KEYS[1], "edit", "edit_prompt"),
    (KEYS[2], "output", "edited_prompt"),
)
TABLE_COLUMNS: tuple[Column, ...] = tuple((name,) for name in Triplet._fields)
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")


def rename_columns(defaults: tuple[Column, ...], names: Mapping[str, str]) -> tuple[Column, ...]:
    """Return the columns of reference, condition and target, some under names that a user gives.

    Args:
        defaults: `JSON_COLUMNS` or `TABLE_COLUMNS`.
        names: `reference`, `condition` or `target` to the name in the file.

    Raises:
        ValueError: a key of `names` is unknown.
    """
    for text in names:
        if text not in Triplet._fields:
            raise ValueError(f"{text!r} is not one of {', '.join(Triplet._fields)}")
    return tuple(
        (names[text],) if text in names else default for text, default in zip(Triplet._fields, defaults, strict=True)
    )


def columns_of(path: Path, names: Mapping[str, str]) -> tuple[Column, ...]:
    """Return the columns of a file by its suffix, as `rename_columns` does."""
    return rename_columns(TABLE_COLUMNS if path.suffix.lower() in TABLE_SUFFIXES else JSON_COLUMNS, names)


@contextmanager
def open_writer(path: Path) -> Iterator[Callable[[Triplet], None]]:
    """Yield a function that writes a triplet as one JSON line; the file appears if the block ends without an error.

    Raises:
        RTDError: the file cannot be written.
    """
    from rtd_plugin.files import write_atomically  # imports torch, which naming the columns does not need

    with write_atomically(path) as draft, draft.open("w", encoding="utf-8") as file:

        def write(triplet: Triplet) -> None:
            file.write(json.dumps(dict(zip(KEYS, triplet, strict=True)), ensure_ascii=False) + "\n")

        yield write
