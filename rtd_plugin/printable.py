"""Makes text safe to print: control characters become visible escapes, secrets are redacted.

Standard library only: errors use it inside a host's process too.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import re
import urllib.parse

KEY_VARIABLES = ("RTD_PLUGIN_API_KEY", "OPENAI_API_KEY")
REDACTED = "[redacted]"
LONGEST_MESSAGE = 2000  # characters of an error, a warning or a line of a log
SHORTEST_SECRET = 6  # characters; redacting shorter ones would hide words of ordinary messages

# C0 and C1 controls except tab and newline, DEL, line and paragraph separators, bidirectional embeddings, overrides and
# isolates, lone surrogates.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# What can come between two characters of a wrapped or coloured secret: terminal sequences, raw or escaped already,
# spaces, line breaks, controls and characters without width.
_BETWEEN = r"(?:(?:\x1b|\\x1b|\\u001b)\[[0-9;]*[A-Za-z]|\\[rnt]|[\s\x00-\x1f\x7f-\x9f\u200b-\u200f\u2060\ufeff])*?"
# Credentials of any server: tokens of the Authorization header, and user names and passwords in addresses.
_CREDENTIALS = re.compile(
    r"""(?x)
    (?P<header> \b [Aa]uthorization \W{1,4} (?:[A-Za-z]+\s+)? ) [^\s"',;]+
    | (?P<bearer> \b Bearer \s+ ) [\w.~+/=-]{6,}
    | (?P<address> :// ) [^\s/?\#"'<>]+ (?=@)
    """
)
_secrets: set[str] = set()


def read_api_key() -> str | None:
    """Return the API key of the environment or None, and redact it from now on.

    Both variables are registered, including the unused one.
    """
    keys = [key for key in map(os.environ.get, KEY_VARIABLES) if key]
    for key in keys:
        register_secret(key)
    return keys[0] if keys else None


def register_secret(secret: str) -> None:
    """Redact a secret of at least `SHORTEST_SECRET` characters from everything that is printed from now on."""
    if len(secret.strip()) >= SHORTEST_SECRET:
        _secrets.add(secret.strip())


def holds_secret(text: str) -> bool:
    """Return whether a text contains a registered secret, in any encoding that `redact` knows."""
    return bool(_secrets and _compile_pattern(frozenset(_secrets)).search(text))


def redact(text: str) -> str:
    """Replace registered secrets, and credentials in headers and addresses, by `[redacted]`.

    A secret is found unchanged, percent-encoded, escaped as in JSON or `repr`, in base64 (also as a part of a longer
    text), and broken by spaces, line breaks or terminal sequences.
    """
    if _secrets:
        text = _compile_pattern(frozenset(_secrets)).sub(REDACTED, text)
    return _CREDENTIALS.sub(lambda match: match[str(match.lastgroup)] + REDACTED, text)


def make_printable(text: str) -> str:
    r"""Return a text for a terminal or a log: redacted, control characters as visible escapes such as `\x1b`.

    Newlines and tabs stay. Idempotent.
    """
    return _UNSAFE.sub(_escape, redact(text))


def make_message(text: str) -> str:
    """Return a text as `make_printable` does, with the middle left out if it is longer than `LONGEST_MESSAGE`.

    Idempotent.
    """
    text = make_printable(text)  # before cutting: half a secret would not be recognised
    if len(text) <= LONGEST_MESSAGE:
        return text
    start, end = text[: LONGEST_MESSAGE - 500], text[-400:]
    return f"{start} … ({len(text) - len(start) - len(end):,} characters left out) … {end}"


def count_noun(count: int, noun: str) -> str:
    """Return a number with its noun: `1 call`, `2 calls`, `1,000 calls`."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}"


def dump_json(value: object, ascii_only: bool = False) -> str:
    """Return a value as indented JSON for a terminal: the same value when parsed, except for secrets."""
    text = redact(json.dumps(value, indent=2, ensure_ascii=ascii_only))
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


@functools.lru_cache(maxsize=8)
def _compile_pattern(secrets: frozenset[str]) -> re.Pattern[str]:
    forms = sorted({form for secret in secrets for form in _list_forms(secret)}, key=len, reverse=True)
    return re.compile("|".join(_BETWEEN.join(map(re.escape, form)) for form in forms))


def _list_forms(secret: str) -> set[str]:
    """Return the ways in which a server may write a secret."""
    quoted = {urllib.parse.quote(secret, safe=""), urllib.parse.quote(secret), urllib.parse.quote_plus(secret)}
    lower = {re.sub("%..", lambda match: match[0].lower(), form) for form in quoted}
    escaped = {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1]}
    slashes = {form.replace("/", r"\/") for form in escaped}
    return {secret, *quoted, *lower, *escaped, *slashes, *_list_base64_forms(secret)}


def _list_base64_forms(secret: str) -> set[str]:
    """Return the base64 characters that depend only on the secret, at three offsets (RFC 4648, section 4)."""
    content = secret.encode("utf-8", "surrogateescape")
    forms = set()
    for offset in range(3):
        code = base64.b64encode(bytes(offset) + content).decode()
        form = code[-(-offset * 8 // 6) : (offset + len(content)) * 8 // 6]
        forms |= {form, form.replace("+", "-").replace("/", "_")}
    return forms
