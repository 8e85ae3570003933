"""The streams of a run: history, system events and console output, line by line at their places."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

_PLAIN = re.compile(r"[-A-Za-z0-9_./ ]*")
"""Keys that any writer of JSON writes as they are."""
_FIRST = -(1 << 62)
_OF = "FROM run_lines WHERE run_id = ? AND stream = ?"


def parse(line: str) -> dict[str, Any]:
    """A logged row; what JSON cannot say (NaN, Infinity) becomes its name, as the real service has it."""
    try:
        row = json.loads(line, parse_constant=str)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def write(db: sqlite3.Connection, run: int, stream: str, offset: int, content: Sequence[str]) -> None:
    """Put lines at their places; those already there are replaced, so sending twice changes nothing."""
    _put(db, run, stream, list(enumerate(content, offset)))


def write_shared(
    db: sqlite3.Connection, run: int, stream: str, *, writer: str, offset: int, content: Sequence[str]
) -> None:
    """Put lines of one of several writers behind all there are, or where they were put the first time."""
    known = (
        "SELECT place, number FROM run_places WHERE run_id = ? AND stream = ? AND writer = ?"
        " AND place BETWEEN ? AND ?"
    )
    last = offset + len(content) - 1
    numbers = {row["place"]: row["number"] for row in db.execute(known, (run, stream, writer, offset, last))}
    end = count(db, run, stream)
    fresh = [place for place in range(offset, last + 1) if place not in numbers]
    numbers |= {place: end + position for position, place in enumerate(fresh)}
    db.executemany(
        "INSERT INTO run_places VALUES (?, ?, ?, ?, ?)",
        [(run, stream, writer, place, numbers[place]) for place in fresh],
    )
    _put(db, run, stream, [(numbers[place], line) for place, line in enumerate(content, offset)])


def _put(db: sqlite3.Connection, run: int, stream: str, numbered: list[tuple[int, str]]) -> None:
    history = stream == "history"
    if history:
        end = count(db, run, stream)
        _note_keys(db, run, [line for number, line in numbered if number >= end])
    db.executemany(
        "INSERT OR REPLACE INTO run_lines VALUES (?, ?, ?, ?, ?)",
        [(run, stream, number, _step(line) if history else None, line) for number, line in numbered],
    )


def count(db: sqlite3.Connection, run: int, stream: str) -> int:
    """The number of the next line; lines inherited by a fork have numbers below 0 and don't count."""
    last = db.execute(f"SELECT max(number) {_OF}", (run, stream)).fetchone()[0]
    return 0 if last is None else max(0, int(last) + 1)


def tail(db: sqlite3.Connection, run: int, stream: str, lines: int) -> list[tuple[int, str]]:
    """The last lines with their numbers, in order."""
    sql = f"SELECT number, line {_OF} ORDER BY number DESC LIMIT ?"
    return [(row["number"], row["line"]) for row in db.execute(sql, (run, stream, lines))][::-1]


def behind(db: sqlite3.Connection, run: int, stream: str, number: int, lines: int) -> list[tuple[int, str]]:
    """Lines from that number on, with their numbers."""
    sql = f"SELECT number, line {_OF} AND number >= ? ORDER BY number LIMIT ?"
    return [(row["number"], row["line"]) for row in db.execute(sql, (run, stream, number, lines))]


def steps(db: sqlite3.Connection, run: int, low: int, high: int, limit: int) -> list[str]:
    """History with low ≤ step < high, in the order of steps, at most `limit` lines.

    A range of no more steps than that is given whole: where several processes write to one run, a step has
    several rows, and the client does not ask for the rest.
    """
    limit = -1 if high - low <= limit else limit
    sql = f"SELECT line {_OF} AND step >= ? AND step < ? ORDER BY step, number LIMIT ?"
    return [row["line"] for row in db.execute(sql, (run, "history", low, high, limit))]


def sample(db: sqlite3.Connection, run: int, stream: str, samples: int) -> list[str]:
    """At most so many lines, evenly chosen, first and last included."""
    numbers = [row[0] for row in db.execute(f"SELECT number {_OF} ORDER BY number", (run, stream))]
    sql = f"SELECT line {_OF} AND number = ?"
    if len(numbers) <= samples:
        return [line for _, line in behind(db, run, stream, _FIRST, len(numbers))]
    return [db.execute(sql, (run, stream, number)).fetchone()[0] for number in evenly(numbers, samples)]


def sampled(db: sqlite3.Connection, run: int, spec: dict[str, Any]) -> list[dict[str, Any]]:
    """History rows that have all keys of the spec, only with these keys, evenly chosen.

    Other than in a page of history, the spec's `maxStep` is the last step wanted, not the first unwanted.
    """
    low, high = spec.get("minStep") or 0, spec.get("maxStep")
    every = steps(db, run, low, 1 << 62 if high is None else high + 1, -1)
    keys, samples = spec.get("keys") or [], spec.get("samples") or 500
    if high is not None and high - low < samples:
        samples = len(every)
    if all(_PLAIN.fullmatch(key) for key in keys):  # far fewer lines are then parsed than there are
        every = evenly([line for line in every if all(f'"{key}":' in line for key in keys)], samples)
    rows = [row for row in map(parse, every) if all(key in row for key in keys)]
    return [{key: row[key] for key in keys} if keys else row for row in evenly(rows, samples)]


def evenly(items: Sequence[Any], wanted: int) -> list[Any]:
    """At most `wanted` of the items, evenly spread, first and last included."""
    if len(items) <= wanted:
        return list(items)
    if wanted <= 1:
        return list(items[-1:][:wanted])
    return [items[index * (len(items) - 1) // (wanted - 1)] for index in range(wanted)]


def keys(db: sqlite3.Connection, run: int) -> dict[str, Any]:
    """What was logged under which keys, and the last step; as the client's `historyKeys`."""
    row = db.execute("SELECT history_keys FROM runs WHERE id = ?", (run,)).fetchone()
    counted: dict[str, dict[str, int]] = json.loads(row["history_keys"])
    last = db.execute(f"SELECT max(step) {_OF}", (run, "history")).fetchone()[0]
    return {
        "keys": {name: {"typeCounts": _type_counts(types)} for name, types in counted.items()},
        "lastStep": -1 if last is None else last,
        "sets": [],
    }


def inherit(db: sqlite3.Connection, parent: int, run: int, step: int) -> None:
    """Copy the parent's history up to a step.

    The client counts a fork's own lines from 0, so those of the parent get the numbers below.
    """
    sql = f"SELECT line {_OF} AND step <= ? ORDER BY number"
    inherited = [row["line"] for row in db.execute(sql, (parent, "history", step))]
    _note_keys(db, run, inherited)
    db.executemany(
        "INSERT INTO run_lines VALUES (?, 'history', ?, ?, ?)",
        [(run, number, _step(line), line) for number, line in enumerate(inherited, -len(inherited))],
    )


def forget_behind(db: sqlite3.Connection, run: int, step: int) -> None:
    """Delete history behind a step, and count its keys anew."""
    db.execute("DELETE FROM run_lines WHERE run_id = ? AND stream = 'history' AND step > ?", (run, step))
    db.execute("UPDATE runs SET history_keys = '{}' WHERE id = ?", (run,))
    _note_keys(db, run, [line for _, line in behind(db, run, "history", _FIRST, -1)])


def _note_keys(db: sqlite3.Connection, run: int, fresh: Iterable[str]) -> None:
    """Count the keys of lines that were not there before."""
    found = Counter((key, _kind(value)) for line in fresh for key, value in parse(line).items())
    if not found:
        return
    stored = db.execute("SELECT history_keys FROM runs WHERE id = ?", (run,)).fetchone()[0]
    counted: dict[str, dict[str, int]] = json.loads(stored)
    for (key, kind), number in found.items():
        types = counted.setdefault(key, {})
        types[kind] = types.get(kind, 0) + number
    db.execute("UPDATE runs SET history_keys = ? WHERE id = ?", (json.dumps(counted), run))


def _type_counts(types: dict[str, int]) -> list[dict[str, Any]]:
    return [{"type": kind, "count": number} for kind, number in sorted(types.items())]


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, dict):
        return str(value.get("_type", "map"))
    if isinstance(value, str):
        return "string"
    return "list" if isinstance(value, list) else "nil"


def _step(line: str) -> int | None:
    step = parse(line).get("_step")
    return int(step) if isinstance(step, int | float) else None
