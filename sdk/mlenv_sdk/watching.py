"""Seeing every change of one object, over connections that break."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mlenv_sdk.errors import NotFound, TimedOut, Unavailable, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from mlenv_sdk.transport import Transport

WATCH_SECONDS = 240
"""The server ends a watch after so long; a silence beyond it means that the connection is dead."""
RETRY_SECONDS = 1.0
GIVE_UP_SECONDS = 60.0
"""So long the API server may be away before a watch says so."""

Raw = dict[str, Any]


class Watched(Protocol):
    """What can be read and watched."""

    def read(self) -> Raw:
        """The object as it is now; NotFound when it is not there."""

    def stream(self, version: str, seconds: float) -> Generator[str, None, None]:
        """Watch events since ``version`` as JSON lines, for ``seconds`` at most."""


@dataclass(frozen=True)
class Source:
    """One named object of a collection."""

    transport: Transport
    collection: str
    name: str
    what: str

    def read(self) -> Raw:
        """The object as it is now; NotFound when it is not there."""
        return self.transport.call("GET", f"{self.collection}/{self.name}", what=self.what)

    def stream(self, version: str, seconds: float) -> Generator[str, None, None]:
        """Watch events since ``version`` as JSON lines, for ``seconds`` at most."""
        query = {
            "watch": "true",
            "fieldSelector": f"metadata.name={self.name}",
            "resourceVersion": version,
            "timeoutSeconds": str(max(1, int(seconds))),
        }
        return self.transport.lines(self.collection, what=self.what, query=query, read_seconds=seconds + 10)


def changes(
    source: Watched, timeout: float | None, now: Callable[[], float], sleep: Callable[[float], object]
) -> Generator[Raw, None, None]:
    """The object, and again after every change, until it is deleted.

    Raises NotFound when it is not there at first, TimedOut after ``timeout`` seconds, and what the transport
    raises when the API server is away for longer than GIVE_UP_SECONDS.
    """
    end = None if timeout is None else now() + timeout
    current = source.read()
    yield current
    alive = now()
    while current is not None:
        left = WATCH_SECONDS if end is None else min(WATCH_SECONDS, end - now())
        if left <= 0:
            raise TimedOut(f"It did not happen within {timeout:g} s.")
        try:
            for state in _since(source, current, left):
                alive, current = now(), state or current
                if state is None:
                    return
                yield state
        except (Unreachable, Unavailable):
            if now() - alive > GIVE_UP_SECONDS:
                raise
            sleep(RETRY_SECONDS)


def _since(source: Watched, known: Raw, seconds: float) -> Generator[Raw | None, None, None]:
    """States newer than ``known``; None when the object is gone. Ends when the watch ends."""
    fresh = _reread(source, known)
    if fresh is None or fresh is not known:
        yield fresh
    if fresh is None:
        return
    with closing(source.stream(_version(fresh), seconds)) as lines:
        yield from _states(lines)


def _reread(source: Watched, known: Raw) -> Raw | None:
    """The object as it is now, or None: a watch that broke may have missed its deletion."""
    try:
        fresh = source.read()
    except NotFound:
        return None
    return known if _version(fresh) == _version(known) else fresh


def _states(lines: Iterable[str]) -> Generator[Raw | None, None, None]:
    for line in lines:
        event = json.loads(line)
        if event["type"] == "ERROR":  # 410: the version is too old; read it anew
            return
        yield None if event["type"] == "DELETED" else event["object"]


def _version(raw: Raw) -> str:
    return str((raw.get("metadata") or {}).get("resourceVersion") or "")
