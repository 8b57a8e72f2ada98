"""Slips of the fingers, as in conditions that people typed."""

import random
from collections.abc import Collection

from rtd_plugin.triplets.wording import WORD

SHORTEST = 5  # letters of a word that is misspelt
_NEIGHBOURS = {
    "a": "s", "b": "v", "c": "x", "d": "s", "e": "r", "f": "g", "g": "h", "h": "g", "i": "o", "j": "h", "k": "l",
    "l": "k", "m": "n", "n": "m", "o": "i", "p": "o", "q": "w", "r": "t", "s": "a", "t": "r", "u": "i", "v": "b",
    "w": "e", "x": "c", "y": "t", "z": "x",
}  # fmt: skip


def misspell(text: str, rng: random.Random, kept: Collection[str]) -> str:
    """Misspell one word of a text, not the first.

    Two letters change places, or one is left out, doubled, or exchanged for its neighbour on the keyboard.

    Args:
        kept: words in lower case that stay as they are.
    """
    words = [match for match in WORD.finditer(text) if match[0].isalpha() and match[0].lower() not in kept]
    words = [match for match in words if match.start() and len(match[0]) >= SHORTEST]
    if not words:
        return text
    match = rng.choice(words)
    word, position = match[0], rng.randrange(1, len(match[0]) - 1)
    before, letter, after = word[:position], word[position], word[position + 1 :]
    slip = rng.choice(
        (
            before + after[0] + letter + after[1:],
            before + after,
            before + letter + letter + after,
            before + _NEIGHBOURS.get(letter, letter) + after,
        )
    )
    return text[: match.start()] + slip + text[match.end() :]
