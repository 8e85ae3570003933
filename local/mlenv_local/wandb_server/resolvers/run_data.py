"""What runs have logged: history, system events, console lines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ariadne import ObjectType

from mlenv_local.wandb_server import console, lines
from mlenv_local.wandb_server.errors import Refused

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from mlenv_local.wandb_server.context import Info, Raw

run_type = ObjectType("Run")
LARGEST = 10_000
"""Lines in one answer."""


def _read(run: Raw, info: Info, call: Callable[[sqlite3.Connection, int], Any]) -> Any:
    with info.context.services.store.read() as db:
        return call(db, run["row"])


@run_type.field("historyLineCount")
def resolve_history_count(run: Raw, info: Info) -> int:
    """How many rows of history; the client goes on counting there after a resume."""
    return int(_read(run, info, lambda db, row: lines.count(db, row, "history")))


@run_type.field("eventsLineCount")
def resolve_events_count(run: Raw, info: Info) -> int:
    """How many rows of system metrics."""
    return int(_read(run, info, lambda db, row: lines.count(db, row, "events")))


@run_type.field("logLineCount")
def resolve_log_count(run: Raw, info: Info) -> int:
    """How many lines of console output."""
    return int(_read(run, info, lambda db, row: lines.count(db, row, "output")))


@run_type.field("historyTail")
def resolve_history_tail(run: Raw, info: Info) -> str:
    """The last row, as a JSON list of JSON rows; never null, or a resume fails."""
    return json.dumps(
        [line for _, line in _read(run, info, lambda db, row: lines.tail(db, row, "history", 1))]
    )


@run_type.field("eventsTail")
def resolve_events_tail(run: Raw, info: Info) -> str:
    """The last row of system metrics, likewise."""
    return json.dumps(
        [line for _, line in _read(run, info, lambda db, row: lines.tail(db, row, "events", 1))]
    )


@run_type.field("historyKeys")
def resolve_history_keys(run: Raw, info: Info) -> Any:
    """Which keys were logged, and the last step."""
    return _read(run, info, lines.keys)


@run_type.field("history")
def resolve_history(
    run: Raw, info: Info, minStep: int | None = None, maxStep: int | None = None, samples: int | None = None
) -> Any:
    """Rows of a range of steps in order, or without a range a sample of all."""
    limit = min(samples if samples is not None else 500, LARGEST)
    if minStep is None and maxStep is None:
        return _read(run, info, lambda db, row: lines.sample(db, row, "history", limit))
    low, high = int(minStep or 0), int(maxStep) if maxStep is not None else 1 << 62
    return _read(run, info, lambda db, row: lines.steps(db, row, low, high, limit))


@run_type.field("events")
def resolve_events(run: Raw, info: Info, samples: int | None = None) -> Any:
    """A sample of the system metrics."""
    limit = min(samples if samples is not None else 500, LARGEST)
    return _read(run, info, lambda db, row: lines.sample(db, row, "events", limit))


@run_type.field("sampledHistory")
def resolve_sampled_history(run: Raw, info: Info, specs: list[str]) -> Any:
    """For each spec the rows that have all of its keys, sampled."""
    return _read(run, info, lambda db, row: [lines.sampled(db, row, _spec(spec)) for spec in specs])


@run_type.field("parquetHistory")
def resolve_parquet_history(*_: Any, **__: Any) -> Raw:
    """History is kept in the database only: the client then reads pages of it."""
    return {"parquetUrls": [], "liveData": []}


@run_type.field("logLines")
def resolve_log_lines(
    run: Raw,
    info: Info,
    first: int | None = None,
    after: str | None = None,
    last: int | None = None,
    **_: Any,
) -> Raw:
    """Console lines from a cursor on, or the last ones."""
    if last is not None:
        found = _read(run, info, lambda db, row: lines.tail(db, row, "output", min(last, LARGEST)))
        return _log_page(found, more=False)
    limit = min(first if first is not None else 1000, LARGEST)
    start = _line_after(after)
    found = _read(run, info, lambda db, row: lines.behind(db, row, "output", start, limit + 1))
    return _log_page(found[:limit], more=len(found) > limit)


def _log_page(found: list[tuple[int, str]], *, more: bool) -> Raw:
    edges = [{"node": _log_line(number, line), "cursor": str(number)} for number, line in found]
    return {
        "edges": edges,
        "pageInfo": {
            "startCursor": edges[0]["cursor"] if edges else None,
            "endCursor": edges[-1]["cursor"] if edges else None,
            "hasNextPage": more,
            "hasPreviousPage": bool(found) and found[0][0] > 0,
        },
    }


def _log_line(number: int, line: str) -> Raw:
    parsed = console.parse(line)
    return {
        "number": number,
        "timestamp": parsed.timestamp,
        "level": parsed.level,
        "label": parsed.label,
        "line": parsed.text,
    }


def _line_after(cursor: str | None) -> int:
    if not cursor:
        return 0
    if not cursor.isdecimal():
        raise Refused(f"{cursor!r} is no cursor of console lines.")
    return int(cursor) + 1


def _spec(text: str) -> Raw:
    try:
        spec = json.loads(text)
    except ValueError as error:
        raise Refused(f"A history spec is no JSON: {error}") from error
    if not isinstance(spec, dict):
        raise Refused("A history spec is no JSON object.")
    return spec


BINDABLES = [run_type]
