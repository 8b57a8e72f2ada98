"""Find and repair problems of text triplets."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from rtd_plugin.triplets.records import Column, Fault, Record, find_fault, get_text
from rtd_plugin.triplets.triplet import Triplet
from rtd_plugin.triplets.wording import find_contradiction, find_torn_compound, is_unchanged

PLACEHOLDERS = "$*"  # of the shipped adapters' prompts
CONTEXT = 77  # tokens of CLIP's context, start and end included
MAX_TOKENS = CONTEXT - 2  # of a text
PROBLEMS = {
    "broken": "the record cannot be read",
    "missing": "a text is missing",
    "not text": "a text is not a string",
    "encoding": "a text is not UTF-8",
    "empty": "a text is empty",
    "too long": f"a text has too many tokens for CLIP's context of {CONTEXT}",
    "placeholder": "a text holds a placeholder character",
    "formula": "a spreadsheet would evaluate a text as a formula",
    "unchanged": "the target equals the reference except for articles",
    "repeats target": "the condition repeats the target",
    "contradiction": "the target has what the condition removes",
    "torn compound": "the condition names only the last word of a compound in the target",
    "duplicate": "the triplet occurs earlier",
}
_PUNCTUATION = re.compile(r"[\W_]+")
# Texts that spreadsheet programs evaluate: any operand after `=`; after `+`, `-` and `@` only calls and references, so
# "- a dog", "+ size dress" and "@home" do not match. Imports drop leading white space; signs may be full width.
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


class Problem(NamedTuple):
    """A problem of one record.

    Attributes:
        name: a key of PROBLEMS.
        detail: the text with the problem, and further details; may be "".
    """

    name: str
    detail: str


class CheckedRecord(NamedTuple):
    """A record after its check.

    Attributes:
        location: of the record in its file.
        triplet: None if it cannot be read.
        problems: what is wrong with it.
    """

    location: str
    triplet: Triplet | None
    problems: list[Problem]


def find_problems(triplet: Triplet, max_condition: int = MAX_TOKENS) -> list[Problem]:
    """Find what is wrong with a triplet by itself.

    Args:
        max_condition: tokens of a condition that fit into a method's prompt.
    """
    problems = []
    for name, text in zip(Triplet._fields, triplet, strict=True):
        fits = max_condition if name == "condition" else MAX_TOKENS
        if (excess := _count_tokens(text, fits) - fits) > 0:
            problems.append(Problem("too long", f"{name} by {excess}"))
        if letters := [letter for letter in PLACEHOLDERS if letter in text]:
            problems.append(Problem("placeholder", f"{name} holds {' and '.join(letters)}"))
        if _FORMULA.match(text):
            problems.append(Problem("formula", name))
    condition, target = map(normalise, triplet[1:])
    if is_unchanged(triplet):
        return [*problems, Problem("unchanged", "")]
    if target and f" {target} " in f" {condition} ":
        problems.append(Problem("repeats target", ""))
    if words := find_contradiction(triplet):
        problems.append(Problem("contradiction", words))
    if compound := find_torn_compound(triplet):
        problems.append(Problem("torn compound", compound))
    return problems


def _count_tokens(text: str, fits: int) -> int:
    """Return the tokens of a text, or 0 if so few letters cannot have more than fit."""
    if len(text) <= fits:
        return 0
    from rtd_plugin.clip.tokens import clean_caption, encode_text  # imports torch, which `--help` does not need

    return len(encode_text(clean_caption(text)))


def normalise(text: str) -> str:
    """Return a text's words in lower case, without punctuation."""
    return " ".join(_PUNCTUATION.sub(" ", text.lower()).split())


def hash_triplet(triplet: Sequence[str]) -> bytes:
    """Hash a triplet: 12 bytes, equal for triplets that differ only in case, punctuation and white space."""
    return hashlib.blake2b("\0".join(map(normalise, triplet)).encode(), digest_size=12).digest()


def check_records(
    records: Iterable[Record], columns: Sequence[Column], max_condition: int = MAX_TOKENS
) -> Iterator[CheckedRecord]:
    """Check records in order; a duplicate of an earlier one is a problem.

    Args:
        columns: of reference, condition and target.
        max_condition: as in `find_problems`.
    """
    seen: set[bytes] = set()
    for location, record in records:
        triplet, problems = _read(record, columns)
        if triplet is not None:
            problems = find_problems(triplet, max_condition)
            key = hash_triplet(triplet)
            if key in seen:
                problems.append(Problem("duplicate", ""))
            seen.add(key)
        yield CheckedRecord(location, triplet, problems)


def _read(record: object, columns: Sequence[Column]) -> tuple[Triplet | None, list[Problem]]:
    if isinstance(record, Fault):
        return None, [Problem("encoding" if "UTF-8" in str(record) else "broken", str(record))]
    texts: list[str] = []
    problems = []
    for column in columns:
        try:
            texts.append(get_text(record, column))
        except Fault as fault:
            problems.append(Problem(_name_problem(record, column), str(fault)))
            if not isinstance(record, dict):
                break
    return (None, problems) if problems else (Triplet(*texts), [])


def _name_problem(record: object, column: Column) -> str:
    if not isinstance(record, dict):
        return "broken"
    key = next((name for name in column if name in record), None)
    if key is None:
        return "missing"
    return {"empty": "empty", "not UTF-8": "encoding"}.get(find_fault(record[key]), "not text")


def repair(triplet: Triplet, problems: Sequence[Problem]) -> Triplet | None:
    """Return a triplet without its problems: placeholder characters are removed; None if it has any other problem."""
    if {problem.name for problem in problems} - {"placeholder"}:
        return None
    repaired = Triplet(*(" ".join(re.sub(f"[{re.escape(PLACEHOLDERS)}]", " ", text).split()) for text in triplet))
    return None if any(map(find_fault, repaired)) or find_problems(repaired) else repaired


@lru_cache(maxsize=1)
def _load_identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ModuleNotFoundError:
        return None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@lru_cache(maxsize=1 << 16)  # triplets of one caption often follow each other
def detect_language(text: str) -> str | None:
    """Return a text's language as an ISO code, None if it cannot be detected or py3langid is missing."""
    if len(text.split()) < 6 or (identifier := _load_identifier()) is None:
        return None
    code, probability = identifier.classify(text)
    return code if code == "en" or probability > 0.5 else None
