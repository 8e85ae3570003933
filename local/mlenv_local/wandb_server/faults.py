"""Fault knobs: what goes wrong, where, and how often, switched at run time.

A rule names an operation: a GraphQL operation as the client calls it (`UpsertBucket`), `file_stream`,
`upload` or `download`, or `*` for any of them. When a request of that operation begins it takes at most one
rule; the rule's effect follows it through the whole request, into the worker thread that commits, by a
context variable.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse

from mlenv_local.wandb_server.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.responses import Response

ANY = "*"
"""The operation of a rule that means all of them."""
CRASH_CODE = 70
"""The exit code of a server that was told to crash."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that goes wrong: exactly one of status, error, drop_after and crash, or it is only slow."""

    operation: str
    status: int = 0
    """Answer with this HTTP status instead of doing anything."""
    retry_after: str = ""
    """The Retry-After header that goes with it."""
    error: str = ""
    """Answer with this GraphQL error instead of doing anything."""
    delay: float = 0.0
    """Seconds to wait before anything else."""
    rate: float = 0.0
    """Bytes a second: of an upload's request, of any other operation's answer; 0: as fast as it goes."""
    drop_after: int = -1
    """Cut the connection after so many bytes: of an upload's request, of any other operation's answer."""
    crash: bool = False
    """End the process where the operation would commit (nothing happens to what only reads)."""
    after: int = 0
    """How many requests pass before the first that this happens to."""
    times: int = -1
    """How many requests it happens to; -1: all."""

    def __post_init__(self) -> None:
        """Refuse what says nothing or two things."""
        effects = [bool(self.status), bool(self.error), self.drop_after >= 0, self.crash]
        if sum(effects) > 1 or not (any(effects) or self.delay or self.rate):
            raise Refused(
                f"A fault of {self.operation} has one of status, error, drop_after, crash, or only a delay or"
                " a rate."
            )


_current: contextvars.ContextVar[Rule | None] = contextvars.ContextVar("fault", default=None)


def rule_of(raw: Mapping[str, Any]) -> Rule:
    """A rule from JSON; Refused for keys that mean nothing."""
    known = {field.name for field in fields(Rule)}
    if unknown := sorted(set(raw) - known):
        raise Refused(f"A fault has no {', '.join(unknown)}; it has {', '.join(sorted(known))}.")
    if not raw.get("operation"):
        raise Refused("A fault needs an operation, such as UpsertBucket, file_stream, upload, download or *.")
    return Rule(**raw)


class Faults:
    """The rules in force; all methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[Rule] = []

    def add(self, rule: Rule) -> None:
        """Put a rule in force, behind those there are."""
        with self._lock:
            self._rules.append(rule)

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        with self._lock:
            self._rules.clear()

    def listed(self) -> list[dict[str, Any]]:
        """The rules in force, with what is left of their counts."""
        with self._lock:
            return [asdict(rule) for rule in self._rules]

    def take(self, operation: str) -> Rule | None:
        """Count a request of that operation and return what happens to it."""
        with self._lock:
            for index, rule in enumerate(self._rules):
                if rule.operation not in {operation, ANY}:
                    continue
                if rule.after > 0:
                    self._rules[index] = replace(rule, after=rule.after - 1)
                elif rule.times != 0:
                    self._rules[index] = replace(rule, times=max(rule.times - 1, -1))
                    return rule
        return None

    async def enter(self, operation: str) -> Response | None:
        """Begin a request: wait, and return the answer that it gets instead of its own, if any."""
        rule = self.take(operation)
        _current.set(rule)
        if rule is None:
            return None
        await asyncio.sleep(rule.delay)
        if rule.error:
            return JSONResponse({"data": None, "errors": [{"message": rule.error}]})
        if rule.status:
            headers = {"Retry-After": rule.retry_after} if rule.retry_after else {}
            said = f"fault of {operation}"
            return JSONResponse({"error": said, "errors": [{"message": said}]}, rule.status, headers)
        return None

    def before_commit(self) -> None:
        """End the process if the present request is to crash."""
        rule = _current.get()
        if rule is not None and rule.crash:
            os._exit(CRASH_CODE)


def reset() -> None:
    """A new request begins: nothing has happened to it."""
    _current.set(None)


def drop_after() -> int:
    """After how many bytes the present request's connection is cut; -1: never."""
    rule = _current.get()
    return -1 if rule is None else rule.drop_after


def pause(size: int) -> float:
    """Seconds that so many bytes of the present request take longer."""
    rule = _current.get()
    return size / rule.rate if rule is not None and rule.rate > 0 else 0.0
