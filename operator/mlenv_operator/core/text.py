"""Sentences for people: bounded, and without what looks like a secret."""

from __future__ import annotations

import re
from typing import Final

_SECRET: Final = re.compile(
    r"(?i)\b([\w-]*(?:token|secret|password|passwd|api[_-]?key|credential)[\w-]*[\"']?\s*[=:]\s*)\S+"
)
_BEARER: Final = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}")
_URL_PASSWORD: Final = re.compile(r"(\w+://[^/\s:@]*:)[^@\s]+@")
_QUOTE_LENGTH: Final = 400


def mask(text: str) -> str:
    """The text without values of tokens, keys and passwords."""
    text = _SECRET.sub(r"\1***", text)
    return _URL_PASSWORD.sub(r"\1***@", _BEARER.sub(r"\1 ***", text))


def clip(text: str, length: int) -> str:
    """At most ``length`` characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def quote(text: str) -> str:
    """Words of others within a sentence of ours: one line, masked, bounded, without a full stop."""
    return clip(mask(" ".join(text.split())), _QUOTE_LENGTH).rstrip(".")


def last_line(text: str) -> str:
    """The last line that says something: of a traceback, the error."""
    lines = [line for line in text.splitlines() if line.strip()]
    return quote(lines[-1]) if lines else ""


def plural(count: int, noun: str) -> str:
    """As ``1 pod`` or ``2 pods``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
