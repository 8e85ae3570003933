"""Names of collections, aliases, tags and versions, and how long a version lives. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mlenv_local.wandb_server.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Iterable

LONGEST = 128
MOST_TAGS = 20
LATEST = "latest"
REGISTRY = "wandb-registry-"
TTL_INHERITED, TTL_NEVER = -1, -2

_NAME = re.compile(r"[^/:\s][^/:\r\n]*")
_TAG = re.compile(r"[-\w]+( +[-\w]+)*")
_VERSION = re.compile(r"v(0|[1-9]\d*)")


def split(name: str) -> tuple[str, str]:
    """`collection:alias`; without an alias the latest is meant."""
    collection, _, alias = name.partition(":")
    return collection, alias or LATEST


def version_of(alias: str) -> int | None:
    """The number in `v7`; None for a name that people gave."""
    match = _VERSION.fullmatch(alias)
    return int(match[1]) if match else None


def collection_name(name: str) -> str:
    """The name, if a collection can be called so."""
    if not _NAME.fullmatch(name) or len(name) > LONGEST:
        raise Refused(f"{name!r} cannot be the name of an artifact: at most {LONGEST} characters, no / or :.")
    return name


def alias_names(names: Iterable[str]) -> list[str]:
    """The names, each once, if all can be aliases."""
    kept = list(dict.fromkeys(names))
    for name in kept:
        if not _NAME.fullmatch(name) or len(name) > LONGEST:
            raise Refused(f"{name!r} cannot be an alias: at most {LONGEST} characters, no / or :.")
        if version_of(name) is not None:
            raise Refused(f"{name!r} cannot be an alias: versions are named so.")
    return kept


def tag_names(names: Iterable[str]) -> list[str]:
    """The names, each once, if all can be tags."""
    kept = list(dict.fromkeys(names))
    for name in kept:
        if not _TAG.fullmatch(name) or len(name) > LONGEST:
            raise Refused(f"{name!r} cannot be a tag: letters, digits, - and _, single words apart.")
    return kept


def stored_ttl(seconds: int | None) -> int | None:
    """What to store of a time to live as the client sends it; None: inherited."""
    if seconds is None or seconds == TTL_INHERITED:
        return None
    if seconds == TTL_NEVER or seconds > 0:
        return seconds
    raise Refused(f"A time to live of {seconds} s is none: positive, -1 (inherit) or -2 (never).")


def expiry(created_ms: int, ttl: int | None) -> int | None:
    """When a version with that stored time to live ends; None: never."""
    return None if ttl is None or ttl == TTL_NEVER else created_ms + 1000 * ttl
