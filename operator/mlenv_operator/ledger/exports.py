"""What counters may show: never less than before, not even when the ledger was restored from a backup.

A counter that goes back by one dollar makes Prometheus believe in a reset, and report all that was ever spent
once more. So the most that each series showed is kept in the ledger, and each publication is told to a second
place before anybody sees it. A ledger that does not know the last publication is old, and shows nothing.
"""

from __future__ import annotations

import json
import os
import secrets
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias

from sqlalchemy import bindparam, insert, select, update

from mlenv_operator.cost.facts import DOLLAR
from mlenv_operator.ledger import admission, rollups, schema
from mlenv_operator.ledger.errors import BelowMark, LedgerError
from mlenv_operator.ledger.remarks import get, put

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sqlalchemy import Connection

    from mlenv_operator.cost.budgets import MonthToDate
    from mlenv_operator.cost.facts import Micros
    from mlenv_operator.ledger.auditing import Health
    from mlenv_operator.ledger.database import Database
    from mlenv_operator.ledger.live import LiveJob

SHOWN: Final = ("gpu_micros", "cost", "list_cost")
_Key: TypeAlias = "tuple[str, str]"
"""Family and labels."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The last publication: its number, a word that only it has, and the sums that it showed, by family."""

    number: int
    word: str
    cost: dict[str, int]


class Marks(Protocol):
    """The second place, which no restoration of the ledger touches."""

    def read(self) -> Mark | None:
        """The last mark; None when there never was one."""

    def write(self, mark: Mark) -> None:
        """Keep it, durably when this returns."""


class FileMarks:
    """A small file, best on another volume than the ledger."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Mark | None:
        """The last mark; None when there is no file."""
        try:
            return Mark(**json.loads(self._path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise LedgerError(
                f"The mark of exported counters in {self._path} cannot be read: {error}."
            ) from error

    def write(self, mark: Mark) -> None:
        """Replace the file, whole or not at all."""
        new = self._path.with_suffix(".new")
        try:
            with new.open("w", encoding="utf-8") as file:
                json.dump(asdict(mark), file)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
        except OSError as error:
            raise LedgerError(
                f"The mark of exported counters was not written to {self._path}: {error}."
            ) from error


class MemoryMarks:
    """No second place at all: what one process remembers. What happens while it is down stays unnoticed."""

    def __init__(self) -> None:
        self._mark: Mark | None = None

    def read(self) -> Mark | None:
        """What this process wrote last."""
        return self._mark

    def write(self, mark: Mark) -> None:
        """Remember it."""
        self._mark = mark


@dataclass(frozen=True, slots=True)
class BothMarks:
    """Two second places: what either of them knows was shown."""

    first: Marks
    second: Marks

    def read(self) -> Mark | None:
        """The newer one."""
        told = [mark for mark in (self.first.read(), self.second.read()) if mark is not None]
        return max(told, key=lambda mark: mark.number, default=None)

    def write(self, mark: Mark) -> None:
        """Keep it in both."""
        self.first.write(mark)
        self.second.write(mark)


@dataclass(frozen=True, slots=True)
class Series:
    """One series of a family, as it may be shown."""

    labels: dict[str, str]
    gpu_micros: int
    cost: int
    list_cost: int
    fresh: bool = field(default=False, compare=False)
    """Whether nothing of it was shown before this publication."""


@dataclass(frozen=True, slots=True)
class Exposition:
    """What counters show, and since when they count; with what gauges show of the same moment."""

    families: dict[str, list[Series]]
    counting_since: Micros
    number: int
    as_of: Micros = 0
    overflow: Mapping[str, int] = field(default_factory=dict)
    """Series that were put together as `__other__` when there were too many, by family."""
    jobs: tuple[LiveJob, ...] = ()
    month: MonthToDate | None = None
    """Who spent what in the current month."""
    health: Health | None = None


class _Raised(NamedTuple):
    """Every series as it may be shown, and those of which nothing was shown before."""

    rows: dict[_Key, tuple[int, int, int]]
    fresh: frozenset[_Key]


def publish(database: Database, marks: Marks, floors: Mapping[_Key, list[int]], now: Micros) -> Exposition:
    """Raise what is shown to what is known by now, and tell the second place before anybody sees it."""
    told = marks.read()
    with database.changing() as connection:
        check(connection, told)
        lists = admission.closed(connection, floors)
        raised = _raise(connection, _folded(floors, lists))
        mark = _advance(connection, raised.rows, told)
        put(connection, "reset", "")
        since = get(connection, "counting_since")
        if since is None:
            put(connection, "counting_since", since := str(now))
    marks.write(mark)
    families: dict[str, list[Series]] = defaultdict(list)
    for key, shown in sorted(raised.rows.items()):
        families[key[0]].append(Series(_labels(key[1]), *shown, fresh=key in raised.fresh))
    overflow = {family: one.others for family, one in lists.items()}
    return Exposition(dict(families), int(since), mark.number, now, overflow)


@lru_cache(1 << 15)
def _labels(text: str) -> dict[str, str]:
    """The labels of a series; one object for all publications, which nobody changes."""
    found: dict[str, str] = json.loads(text)
    return found


def _folded(
    floors: Mapping[_Key, list[int]], lists: Mapping[str, admission.Admitted]
) -> dict[_Key, list[int]]:
    """What open hours add, to those counters that there are."""
    sums: dict[_Key, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for (family, labels), amounts in floors.items():
        rollups.plus(sums[family, lists[family].place(labels)], amounts)
    return dict(sums)


def check(connection: Connection, told: Mark | None) -> None:
    """Refuse to show anything from a ledger that is older than what was shown."""
    if told is None or get(connection, "reset"):
        return
    number, word = int(get(connection, "publication") or 0), get(connection, "word")
    # The second place may be one behind: the operator died between the two.
    before = get(connection, "word_before")
    if (number, word) == (told.number, told.word) or (number, before) == (told.number + 1, told.word):
        return
    shown = sum(told.cost.values()) / DOLLAR
    raise BelowMark(
        f"The ledger knows of publication {number} of its counters, and number {told.number} was shown, of "
        f"{shown:.2f} dollars: it was restored from an older backup, or is another one. Shown as it is, "
        "counters would go back, and Prometheus would report all that was ever spent as new. Restore a newer "
        "backup, or let counters begin anew at zero: stop the operator, and "
        "`python -m mlenv_operator.ledger reset-counters`."
    )


def reset(database: Database, marks: Marks, now: Micros) -> None:
    """Let counters begin anew at zero, which Prometheus understands; the ledger itself stays as it is."""
    told = marks.read()
    at = schema.counter.c
    with database.changing() as connection:
        base = {f"base_{name}": at[name] for name in SHOWN}
        connection.execute(update(schema.counter).values(**base, **{f"shown_{name}": 0 for name in SHOWN}))
        put(connection, "counting_since", str(now))
        # Whatever a second place knows that is not at hand here was shown before this.
        put(connection, "reset", "1")
        admission.reopen(connection)
        mark = _advance(connection, {}, told)
    marks.write(mark)


def _raise(connection: Connection, floors: Mapping[_Key, list[int]]) -> _Raised:
    """Every series as it may be shown now; what grew is kept."""
    found, grown, fresh = {}, [], set(floors)
    missing = dict(floors)
    at = schema.counter.c
    columns = [at[f"{prefix}{name}"] for name in SHOWN for prefix in ("", "base_", "shown_")]
    for family, labels, *row in connection.execute(select(at.family, at.labels, *columns)).all():
        key = (family, labels)
        _, *more = missing.pop(key, (0, 0, 0, 0))
        shown = tuple(row[2::3])
        sums = zip(row[::3], row[1::3], shown, more, strict=True)
        new = tuple(max(old, now + extra - base) for now, base, old, extra in sums)
        found[key] = (new[0], new[1], new[2])
        (fresh.discard if any(shown) else fresh.add)(key)
        if shown != new:
            grown.append(_shown(key, new, "key_"))
    if grown:
        where = (at.family == bindparam("key_family"), at.labels == bindparam("key_labels"))
        values: dict[str, Any] = {f"shown_{name}": bindparam(f"shown_{name}") for name in SHOWN}
        connection.execute(update(schema.counter).where(*where).values(**values), grown)
    if missing:
        rows = [{**_zeros(), **_shown(key, amounts[1:])} for key, amounts in sorted(missing.items())]
        connection.execute(insert(schema.counter), rows)
        found.update((key, (one[1], one[2], one[3])) for key, one in missing.items())
    return _Raised(found, frozenset(fresh))


def _shown(key: tuple[str, str], amounts: Any, prefix: str = "") -> dict[str, Any]:
    shown = {f"shown_{name}": value for name, value in zip(SHOWN, amounts, strict=True)}
    return {f"{prefix}family": key[0], f"{prefix}labels": key[1], **shown}


def _zeros() -> dict[str, int]:
    names = [column.name for column in schema.counter.columns if not column.primary_key]
    return dict.fromkeys(names, 0)


def _advance(
    connection: Connection, rows: Mapping[tuple[str, str], tuple[int, int, int]], told: Mark | None
) -> Mark:
    """The publication after the one that was told, however often the second place was away since."""
    own, said = int(get(connection, "publication") or 0), get(connection, "word") or ""
    number, before = (own, said) if told is None else (told.number, told.word)
    number += 1
    word = secrets.token_hex(8)
    put(connection, "word_before", before)
    put(connection, "word", word)
    put(connection, "publication", str(number))
    sums: dict[str, int] = defaultdict(int)
    for (family, _), (_, cost, _) in rows.items():
        sums[family] += cost
    return Mark(number, word, dict(sums))
