"""Comparisons of two values of an attribute: darker, longer, longer sleeves."""

from rtd_plugin.generation.rules.word_classes import COMPARATIVES
from rtd_plugin.triplets.wording import TONE_MODIFIERS

# Colours by lightness, from 0 to 6; others are compared with none.
_LIGHTNESS = {
    "black": 0, "charcoal": 1, "navy": 1, "maroon": 1, "burgundy": 1, "brown": 2, "purple": 2, "violet": 2, "olive": 2,
    "green": 3, "blue": 3, "red": 3, "emerald": 3, "grey": 3, "gray": 3, "teal": 3, "khaki": 4, "turquoise": 4,
    "orange": 4, "gold": 4, "golden": 4, "tan": 4, "pink": 4, "silver": 4, "yellow": 5, "beige": 5, "cream": 6,
    "ivory": 6, "white": 6,
}  # fmt: skip
_SHADES = {"dark": -2, "deep": -1, "light": 2, "pale": 2}
APART = 2  # steps of lightness that people would see
_LENGTHS = {
    "mini": 0, "short": 0, "knee-length": 1, "midi": 2, "calf-length": 2, "long": 3, "ankle-length": 3, "maxi": 3,
}  # fmt: skip
_VIVID = frozenset(("red", "green", "pink", "orange", "yellow", "purple", "turquoise", "blue"))
_NEUTRAL = frozenset(
    ("black", "white", "grey", "gray", "beige", "navy", "brown", "charcoal", "ivory", "cream", "khaki")
)
_PRINTS = {
    "striped": "stripes", "dotted": "dots", "polka dot": "polka dots", "checked": "checks", "printed": "a print",
    "patterned": "a pattern", "floral": "a floral print", "flowered": "flowers", "plaid": "a plaid print",
}  # fmt: skip
_SLEEVES = {"sleeveless": (0, "no sleeves"), "short-sleeved": (1, "short sleeves"), "long-sleeved": (2, "long sleeves")}
_GRADED = frozenset((
    "size", "height", "age", "length", "brightness", "fit", "width", "thickness", "finish", "occasion", "exposure",
    "variety of colours",
))  # fmt: skip


def compare_values(kind: str, old: str, new: str) -> dict[str, str]:
    """Return the fields of patterns that compare values of an attribute, or say a value as people do of clothes.

    Args:
        kind: of the attribute.
        old: the value of the reference; "" if it has none.
        new: the value of the target.
    """
    fields: dict[str, str] = {}
    if kind == "colour":
        hues = {"new_hue": new, "old_hue": old}
        fields |= {name: hue for name, hue in hues.items() if hue and " " not in hue}
        fields |= {"vivid": ""} if new in _VIVID and old in _NEUTRAL else {}
        fields |= {"muted": ""} if old in _VIVID and new in _NEUTRAL else {}
    if kind == "pattern":
        fields["plain" if new in ("plain", "solid") else "pattern"] = ""
        fields |= {"new_print": _PRINTS[new]} if new in _PRINTS else {}
    if kind == "sleeves":
        rank, fields["new_sleeves"] = _SLEEVES[new]
        if old:
            is_longer = rank > _SLEEVES[old][0]
            fields["revealing"] = "less revealing" if is_longer else "more revealing"
            fields |= {"other_sleeves": "longer sleeves" if is_longer else "shorter sleeves"} if rank else {}
    if comparative := _compare(kind, old, new):
        fields["comparative"] = comparative
        if kind == "hem":
            fields["revealing"] = "more revealing" if comparative == "shorter" else "less revealing"
        if kind in ("finish", "occasion", "exposure", "variety of colours"):
            fields["less_old"] = f"less {old}"
    return fields


def _compare(kind: str, old: str, new: str) -> str:
    if kind in _GRADED:
        return COMPARATIVES.get(new, "")
    if kind == "hem":
        return _order(_LENGTHS.get(old), _LENGTHS.get(new), 1, ("shorter", "longer"))
    if kind == "colour" and old:
        return _order(_find_lightness(old), _find_lightness(new), APART, ("darker", "lighter"))
    return ""


def _order(old: int | None, new: int | None, apart: int, words: tuple[str, str]) -> str:
    """Return the word for less or for more, or "" for values that are less than `apart` apart."""
    if old is None or new is None or abs(new - old) < apart:
        return ""
    return words[new > old]


def _find_lightness(colour: str) -> int | None:
    """Return the lightness of a colour with its shade; None if it is not in the list."""
    *modifiers, tone = colour.split()
    if tone not in _LIGHTNESS or set(modifiers) & (TONE_MODIFIERS - _SHADES.keys()):
        return None
    return _LIGHTNESS[tone] + sum(_SHADES.get(word, 0) for word in modifiers)
