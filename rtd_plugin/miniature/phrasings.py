"""The phrasings of conditions, from `phrasings.yaml` and `independent_phrasings.yaml`, and stray words."""

import re
from importlib.resources import files
from typing import Any

import yaml


def _split_lines(value: Any) -> Any:
    return value.splitlines() if isinstance(value, str) else {key: _split_lines(text) for key, text in value.items()}


def _load_table(name: str) -> Any:
    """Return a table of both files, by group."""
    return {group: texts for file in _FILES for group, texts in file[name].items()}


def _collect_words(group: str) -> set[str]:
    patterns = (pattern for patterns in PATTERNS[group].values() for pattern in patterns)
    texts = " ".join((*patterns, *WRAPPERS[group], *REFERENTS[group]))
    return set(re.findall("[a-z]+", re.sub(r"\{\w*\}", "", texts)))


_FILES = [
    _split_lines(yaml.safe_load(files(__package__).joinpath(name).read_text(encoding="utf-8")))
    for name in ("phrasings.yaml", "independent_phrasings.yaml")
]
WRAPPERS: dict[str, list[str]] = _load_table("wrappers")  # by group, "seen", "unseen" or "independent"
REFERENTS: dict[str, list[str]] = _load_table("referents")
PATTERNS: dict[str, dict[str, list[str]]] = _load_table("patterns")  # by group and kind of edit
UNSEEN_WORDS = frozenset(_collect_words("unseen") - _collect_words("seen"))
"""Words that only "unseen" phrasings have; no condition of a triplet has one."""

# Words of conditions, and of captions on the web, that do not describe a picture when they are in its caption.
_STRAY_WORDS = """
    make change turn paint is now should be instead of color has shows the replace different not but into use place
    it shape much size gets pattern put show move moves add also added there are two objects too as well same
    another object remove delete take away get rid drop removed gone missing no without does have only left keep
    just scene picture time everything rest new best free sale today nice my our that and this thing one
"""
STRAY_WORDS = tuple(_STRAY_WORDS.split())
