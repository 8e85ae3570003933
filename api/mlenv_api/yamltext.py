"""A small YAML writer for generated files: block style, keys in the order given, one way to write a value."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_PLAIN: Final = re.compile(r"[A-Za-z_$/.(][A-Za-z0-9 _$/.,;()<>=+*-]*(?<! )")
_NOT_PLAIN: Final = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n", "none"})
_UNSAFE: Final = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""What JSON leaves as it is and YAML refuses, folds or drops."""


def dump(value: dict[str, Any]) -> str:
    """JSON-like data as a YAML document that every parser reads the same way."""
    return "\n".join(_mapping(value, "")) + "\n"


def _mapping(value: dict[str, Any], indent: str) -> Iterator[str]:
    for key, child in value.items():
        yield from _entry(f"{indent}{_scalar(key)}:", child, indent)


def _entry(head: str, child: object, indent: str) -> Iterator[str]:
    if isinstance(child, dict) and child:
        yield head
        yield from _mapping(child, indent + "  ")
    elif isinstance(child, list) and child:
        yield head
        yield from _sequence(child, indent)
    else:
        yield f"{head} {_scalar(child)}"


def _sequence(value: list[Any], indent: str) -> Iterator[str]:
    for child in value:
        if isinstance(child, dict) and child:
            first, *rest = _mapping(child, indent + "  ")
            yield f"{indent}- {first.lstrip()}"
            yield from rest
        else:
            yield f"{indent}- {_scalar(child)}"


def _scalar(value: object) -> str:
    """Plain where that is safe, else JSON, which is YAML too."""
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _NOT_PLAIN:
        return value
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False))
