"""What can be wrong with text triplets."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from rtd_plugin.errors import RTDError
from rtd_plugin.triplets.records import Column, Fault, Record, text_fault, text_of
from rtd_plugin.triplets.triplet import Triplet

PLACEHOLDERS = "$*"  # of the shipped adapters' prompts
CONTEXT = 77  # tokens of CLIP's context, start and end included
KINDS = {
    "broken": "no triplet can be read",
    "missing": "a text is missing",
    "not text": "a text is no text",
    "encoding": "a text is not UTF-8",
    "empty": "a text is empty",
    "too long": f"a text has more than {CONTEXT} tokens",
    "placeholder": "a text holds a placeholder character",
    "formula": "a spreadsheet would run a text as a formula",
    "unchanged": "the target equals the reference",
    "repeats target": "the condition repeats the target",
    "duplicate": "the triplet was there before",
}
# What spreadsheet programs evaluate: all operands after `=`; after `+`, `-` and `@` what can reach beyond the cell, so
# that "- a dog", "+ size dress" and "@home" are none. Imports drop leading white space; signs may be full width.
_FORMULA = re.compile(
    r"""[\s\0]* (?:
        [=\uff1d] \s* [\w"'({\[$+@-]
        | [+@\uff0b\uff0d\uff20-] [\s+@=-]* (?:[\d.]+\s*[-+*/^&=<>]\s*)* (?:
            [^\W\d][\w.]*\(                                    # a call
            | (?:'[^']*'|[\w.]+) (?: \| | !\s*\$?[a-z]{1,3}\$?\d)   # DDE, a cell of another sheet
            | \[[^\]]+\][^!]*!                                 # a cell of another file
            | \$?[a-z]{1,3}\$?\d{1,7}\s* (?:$ | [-+*/^&=<>:])       # a cell, alone or in a calculation
        )
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_NAMES = Triplet._fields


class Problem(NamedTuple):
    """A problem of one record: its kind (a key of KINDS), and what exactly."""

    kind: str
    detail: str


@dataclass
class Checked:
    """The summary of a check.

    Attributes:
        records: how many were read; sound: how many have no problem.
        kinds: problems by kind.
        english, other: triplets whose language could be told, and was English, or was not.
    """

    records: int = 0
    sound: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    english: int = 0
    other: int = 0


def problems_of(triplet: Triplet) -> list[Problem]:
    """What is wrong with a triplet by itself."""
    found = []
    for name, text in zip(_NAMES, triplet, strict=True):
        if (over := _tokens(text) - CONTEXT) and over > 0:
            found.append(Problem("too long", f"{name} by {over}"))
        if held := [letter for letter in PLACEHOLDERS if letter in text]:
            found.append(Problem("placeholder", f"{name} holds {' and '.join(held)}"))
        if _FORMULA.match(text):
            found.append(Problem("formula", name))
    reference, condition, target = (plain(text) for text in triplet)
    if reference == target:
        found.append(Problem("unchanged", ""))
    elif target and f" {target} " in f" {condition} ":
        found.append(Problem("repeats target", ""))
    return found


def _tokens(text: str) -> int:
    if len(text) < CONTEXT - 1:  # a token is a letter at least
        return 0
    from rtd_plugin.clip.tokens import clean_caption, encode_text  # torch, which help must not wait for

    return len(encode_text(clean_caption(text))) + 2


def plain(text: str) -> str:
    """A text's words in lower case, without punctuation."""
    return " ".join("".join(letter if letter.isalnum() else " " for letter in text.lower()).split())


def mark_of(triplet: Sequence[str]) -> bytes:
    """Equal for triplets that differ in case, punctuation and white space alone."""
    return hashlib.blake2b("\0".join(map(plain, triplet)).encode(), digest_size=12).digest()


def check(
    found: Iterator[Record], columns: Sequence[Column], language: Callable[[str], str | None]
) -> Iterator[tuple[str, Triplet | None, list[Problem], Checked]]:
    """Check records one by one.

    Args:
        found: as `reading.records` gives them.
        columns: of reference, condition and target.
        language: tells a text's language as an ISO code, None where it cannot.

    Yields:
        Where the record is, its triplet (None where there is none), what is wrong with it, and the summary so far.
    """
    summary = Checked()
    seen: set[bytes] = set()
    for place, record in found:
        summary.records += 1
        triplet, problems = _read(record, columns)
        if triplet is not None:
            problems = problems_of(triplet)
            mark = mark_of(triplet)
            if mark in seen:
                problems.append(Problem("duplicate", ""))
            seen.add(mark)
            code = language(triplet.reference)
            summary.english += code == "en"
            summary.other += code not in ("en", None)
        summary.sound += not problems
        summary.kinds.update({problem.kind for problem in problems})
        yield place, triplet, problems, summary


def _read(record: object, columns: Sequence[Column]) -> tuple[Triplet | None, list[Problem]]:
    if isinstance(record, Fault):
        return None, [Problem("encoding" if "UTF-8" in str(record) else "broken", str(record))]
    texts: list[Any] = []
    problems = []
    for _name, column in zip(_NAMES, columns, strict=True):
        try:
            texts.append(text_of(record, column))
        except Fault as fault:
            problems.append(Problem(_kind_of(record, column), str(fault)))
            if not isinstance(record, dict):
                break
    return (None, problems) if problems else (Triplet(*texts), [])


def _kind_of(record: object, column: Column) -> str:
    if not isinstance(record, dict):
        return "broken"
    key = next((name for name in column if name in record), None)
    if key is None:
        return "missing"
    return {"empty": "empty", "not UTF-8": "encoding"}.get(text_fault(record[key]), "not text")


def repaired(triplet: Triplet, problems: Sequence[Problem]) -> Triplet | None:
    """A triplet without its problems; None where only leaving it out helps.

    Placeholder characters are taken out; all else is not for a program to mend.
    """
    if {problem.kind for problem in problems} - {"placeholder"}:
        return None
    mended = Triplet(*(" ".join(re.sub(f"[{re.escape(PLACEHOLDERS)}]", " ", text).split()) for text in triplet))
    return None if any(map(text_fault, mended)) or problems_of(mended) else mended


@lru_cache(maxsize=1)
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise RTDError(
            "telling languages apart needs py3langid: install it with `pip install 'rtd-plugin[triplets]'`"
        ) from error
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@lru_cache(maxsize=1 << 16)  # triplets of one caption often follow each other
def language_of(text: str) -> str | None:
    """A text's language, None for one that is too short or too unusual to tell."""
    if len(text.split()) < 6:
        return None
    code, probability = _identifier().classify(text)
    return code if code == "en" or probability > 0.5 else None
