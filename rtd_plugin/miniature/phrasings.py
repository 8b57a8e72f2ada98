"""The phrasings of conditions, from `phrasings.yaml`, and stray words."""

from importlib.resources import files
from typing import Any

import yaml


def _split_lines(value: Any) -> Any:
    return value.splitlines() if isinstance(value, str) else {key: _split_lines(text) for key, text in value.items()}


_TEXTS = _split_lines(yaml.safe_load(files(__package__).joinpath("phrasings.yaml").read_text(encoding="utf-8")))
WRAPPERS: dict[str, list[str]] = _TEXTS["wrappers"]  # by group, "seen" or "unseen"
REFERENTS: dict[str, list[str]] = _TEXTS["referents"]
PATTERNS: dict[str, dict[str, list[str]]] = _TEXTS["patterns"]  # by group and kind of edit

# Words of conditions, and of captions on the web, that do not describe a picture when they are in its caption.
_STRAY_WORDS = """
    make change turn paint is now should be instead of color has shows the replace different not but into use place
    it shape much size gets pattern put show move moves add also added there are two objects too as well same
    another object remove delete take away get rid drop removed gone missing no without does have only left keep
    just scene picture time everything rest new best free sale today nice my our that and this thing one
"""
STRAY_WORDS = tuple(_STRAY_WORDS.split())
