"""Sizes and measures in captions: "24 oz", "Size 10", "set of 4"."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from spacy.tokens import Doc

_UNITS = {
    "inch": "inch(?:es)?", "ft": "ft|feet|foot", "m": "m|meters?|metres?", "cm": "cm|centimeters?|centimetres?",
    "mm": "mm|millimeters?|millimetres?", "oz": "(?:fl )?oz|ounces?", "lb": "lbs?|pounds?", "kg": "kg|kilograms?",
    "g": "g|grams?", "ml": "ml", "l": "l|liters?|litres?", "quart": "quarts?", "gallon": "gallons?", "v": "v|volts?",
    "w": "w|watts?", "pack": "packs?|pieces?|count|pcs", "sheet": "sheets", "person": "person",
}  # fmt: skip
_LETTERS = ("xs", "s", "m", "l", "xl", "xxl", "xxxl")
_PACK = re.compile(r"(?:pack|set|box) of (?P<n>\d+)", re.IGNORECASE)
_SIZE = re.compile(rf"size (?:(?P<n>\d+(?:\.\d+)?)|(?P<letter>{'|'.join(_LETTERS)}))\b", re.IGNORECASE)
_AMOUNT = re.compile(
    r"(?<![\w.])(?P<n>\d+(?:\.\d+)?)[ -]?(?:"
    + "|".join(f"(?P<{unit}>{form})" for unit, form in _UNITS.items())
    + r")\b",
    re.IGNORECASE,
)
_AREA = re.compile(r"\d+ ?x ?\d+", re.IGNORECASE)
_FORMS = (_PACK, _SIZE, _AMOUNT)


class Measure(NamedTuple):
    """A measure.

    Attributes:
        kind: measures of one kind may replace each other, such as "oz".
        value: its number; of a size in letters, its position among them.
        text: as it is written.
    """

    kind: str
    value: float
    text: str

    def is_near(self, other: "Measure") -> bool:
        """Return whether another measure differs, but not by so much that it is another sort of thing."""
        if self.kind != other.kind or self.value == other.value:
            return False
        if self.kind == "letters":
            return True
        lower, upper = sorted((self.value, other.value))
        return _find_form(self) == _find_form(other) and upper <= 3 * lower


def _find_form(measure: Measure) -> str:
    return re.sub(r"[\d.]+", "#", measure.text.lower())


def _read(match: "re.Match[str]") -> Measure:
    fields = match.groupdict()
    if fields.get("letter"):
        return Measure("letters", _LETTERS.index(fields["letter"].lower()), match[0])
    kind = next((unit for unit in _UNITS if fields.get(unit)), "pack" if match.re is _PACK else "size")
    return Measure(kind, float(fields["n"]), match[0])


def find_measure(text: str) -> Measure | None:
    """Return the measure that a whole text is."""
    return next((_read(match) for form in _FORMS if (match := form.fullmatch(text.strip()))), None)


def list_measures(doc: "Doc") -> Iterator[tuple[int, int, Measure]]:
    """Yield the measures of a caption with their range of tokens; areas such as "50 x 60 inches" are none."""
    if not any(letter.isdigit() for letter in doc.text) and "size " not in doc.text.lower():
        return
    for form in _FORMS:
        for match in form.finditer(doc.text):
            span = doc.char_span(match.start(), match.end())
            if span is not None and not _AREA.search(doc.text[: match.end()]):
                yield span.start, span.end, _read(match)
