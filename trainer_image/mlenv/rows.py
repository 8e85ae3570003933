"""The format of the history: what rank 0 appends, and what a courier believes of it. Pure.

One file holds a head and rows, a line of JSON each. Ranks may write anything, and be killed in the middle of
a line, so a reader takes whole lines only, and passes over what makes no sense.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

VERSION: Final = 1
FOLDER: Final = "history"
"""Beside the folder in which ranks and courier leave each other word."""
SUFFIX: Final = ".rows"
ABOUT: Final = "about.json"
"""From rank 0, in the same folder: what program runs here, and how."""
SPENT: Final = "spent.json"
"""From rank 0: what the attempt's time went to, in seconds."""
STOPPED: Final = "stopped.json"
"""From rank 0: that it writes no more history in this attempt, and why."""
MAX_LINE: Final = 64 << 10
MAX_METRICS: Final = 256
MAX_NAME: Final = 200
MAX_STEP: Final = 2**53
EVERY_STEP_UNTIL: Final = 10_000
"""So many steps have a row each; then every tenth up to ten times as many, and so on."""
NONFINITE: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def following(step: int) -> int:
    """The next step after `step` that has a row.

    It depends on nothing but the step, so that every attempt writes the same rows, and a run of a billion
    steps has some 60,000.
    """
    stride = 1
    while step + stride > EVERY_STEP_UNTIL * stride:
        stride *= 10
    return (step // stride + 1) * stride


@dataclass(frozen=True, slots=True)
class Head:
    """The first line of a file: which attempt writes, and from where."""

    job: str
    attempt: int
    start: int
    """The step that it went on from: its first row is later."""
    since: int = 1
    """Rows of older attempts do not count: somebody asked for a new start."""


@dataclass(frozen=True, slots=True)
class Row:
    """One committed step."""

    step: int
    time: float
    """When, in seconds since 1970."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    samples: int | None = None
    epoch: int | None = None


@dataclass(frozen=True, slots=True)
class End:
    """The last line: how the Session ended; without one the process was killed."""

    code: int


def name(attempt: int, number: int) -> str:
    """Of a file; in this order they were written."""
    return f"a{attempt:08d}-{number:06d}{SUFFIX}"


def order(name: str) -> tuple[int, int] | None:
    """(attempt, number) of a file with that name; None for another file."""
    stem, found, rest = name.rpartition(SUFFIX)
    attempt, dash, number = stem[1:].partition("-")
    whole = found and not rest and stem[:1] == "a" and dash and attempt.isascii() and number.isascii()
    return (int(attempt), int(number)) if whole and attempt.isdigit() and number.isdigit() else None


def head(one: Head) -> str:
    """The line of a head."""
    said = {"job": one.job, "attempt": one.attempt, "start": one.start, "since": one.since}
    return json.dumps({"mlenvHistory": VERSION, **said}) + "\n"


def end(code: int) -> str:
    """The line of an end."""
    return f'{{"end":{code}}}\n'


def row(one: Row) -> str:
    """The line of a row: by hand, since a step pays for it."""
    numbers = ",".join([f"{_quoted(key)}:{number(value)}" for key, value in one.metrics.items()])
    where = "" if one.samples is None else f'"n":{one.samples},"e":{one.epoch or 0},'
    return f'{{"s":{one.step},"t":{one.time:.3f},{where}"m":{{{numbers}}}}}\n'


_names: Final[dict[str, str]] = {}


def _quoted(key: str) -> str:
    found = _names.get(key)
    if found is None:
        found = json.dumps(key[:MAX_NAME])
        if len(_names) < 1000:  # a program that makes up names all the time must not fill the memory
            _names[key] = found
    return found


def number(value: float) -> str:
    """As JSON; what is not finite by its name."""
    if math.isfinite(value):
        return repr(value)
    return '"NaN"' if math.isnan(value) else '"Infinity"' if value > 0 else '"-Infinity"'


def read_head(line: bytes) -> Head | None:
    """The head in a line; None where there is none that this version can read."""
    found = _object(line)
    if found.get("mlenvHistory") != VERSION or not isinstance(found.get("job"), str):
        return None
    numbers = [_whole(found.get(one), low) for one, low in (("attempt", 1), ("start", 0), ("since", 1))]
    if None in numbers:
        return None
    attempt, start, since = (one or 0 for one in numbers)
    return Head(found["job"], attempt, start, since)


def read(line: bytes) -> Row | End | None:
    """What a line after the head says; None for nonsense."""
    found = _object(line)
    if isinstance(found.get("end"), int):
        return End(found["end"])
    step, time = _whole(found.get("s"), 1), found.get("t")
    metrics = _metrics(found.get("m"))
    if step is None or not isinstance(time, int | float) or not 0 <= time < 1e11 or metrics is None:
        return None
    return Row(step, float(time), metrics, _whole(found.get("n"), 0), _whole(found.get("e"), 0))


def value(said: object) -> float | None:
    """A number as JSON or W&B has it; None for what is none."""
    if isinstance(said, str):
        return NONFINITE.get(said)
    return float(said) if isinstance(said, int | float) and not isinstance(said, bool) else None


def _object(line: bytes) -> dict[str, Any]:
    if len(line) > MAX_LINE:
        return {}
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _whole(said: object, low: int) -> int | None:
    right = isinstance(said, int) and not isinstance(said, bool) and low <= said <= MAX_STEP
    return said if right and isinstance(said, int) else None


def _metrics(said: object) -> dict[str, float] | None:
    if not isinstance(said, dict) or len(said) > MAX_METRICS:
        return None
    try:
        values = {key: value(one) for key, one in said.items() if 0 < len(key) <= MAX_NAME}
    except OverflowError:
        return None
    return {key: one for key, one in values.items() if one is not None}


def merged(lines: Iterable[Row]) -> list[Row]:
    """One row a step: what was logged after its commit joins it."""
    found: dict[int, Row] = {}
    for one in lines:
        old = found.get(one.step)
        found[one.step] = one if old is None else _joined(old, one)
    return list(found.values())


def _joined(old: Row, new: Row) -> Row:
    samples = old.samples if new.samples is None else new.samples
    epoch = old.epoch if new.epoch is None else new.epoch
    return Row(old.step, old.time, {**old.metrics, **new.metrics}, samples, epoch)
