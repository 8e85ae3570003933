"""Who spent what in the current month: read once from sums by day, then only as settlements come."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from sqlalchemy import and_, case, func, literal_column, or_, select

from mlenv_operator.cost.budgets import MonthToDate, Spent, window
from mlenv_operator.cost.facts import HOUR
from mlenv_operator.ledger import remarks, rollups, schema
from mlenv_operator.ledger.calendar import DAY, hours_of, month_at, month_of, show_month
from mlenv_operator.ledger.schema import FIRST_USE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import Connection

    from mlenv_operator.cost.budgets import Whose
    from mlenv_operator.cost.facts import Micros
    from mlenv_operator.ledger.openhours import Payer

Owner: TypeAlias = "tuple[str, str]"
"""Team and use case; empty where a job has none."""
Sums: TypeAlias = "defaultdict[int, defaultdict[Owner, int]]"
"""By month or day, and by owner."""


class _New(NamedTuple):
    """What was booked for an owner."""

    booked: int
    day: int
    team: str
    use_case: str
    cost: int


class Monthly:
    """Keeps what was booked in this month, and used in the last days. One for the life of a writer."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew: everything is read once more."""
        self._now: Micros = 0
        self._since: Micros = 0
        self._seq: int | None = None
        self._booked: Sums = _sums()  # by month
        self._unpriced: Sums = _sums()  # by month of use
        self._days: Sums = _sums()
        self._recent: defaultdict[Owner, int] = defaultdict(int)  # the sum of those days

    def look(self, connection: Connection, open_: Mapping[Payer, Sequence[int]], now: Micros) -> MonthToDate:
        """All that is known now; `open_` is what open hours add."""
        if now < self._now:
            self.forget()
        self._now = now
        seq = connection.execute(select(func.coalesce(func.max(schema.settlement.c.seq), 0))).scalar_one()
        if self._seq is None:
            self._begin(connection, now)
        elif seq > self._seq:
            self._renew(connection, self._seq)
        self._seq = int(seq)
        recent, month = window(now, self._since), month_at(now)
        self._drop(month, recent.day)
        end = hours_of(month)[1] * HOUR
        return MonthToDate(show_month(month), now, end, recent.length, self._all(month, open_))

    def _begin(self, connection: Connection, now: Micros) -> None:
        self._since = int(remarks.get(connection, "since") or 0) * HOUR
        month = month_at(now)
        for one in _rolled(connection, month, window(now, self._since).day):
            self._add(one)
        for team, use_case, held in _unpriced(connection, month):
            self._unpriced[month][team, use_case] += held

    def _renew(self, connection: Connection, seq: int) -> None:
        for one, hour, unpriced in _settled(connection, seq):
            self._add(one)
            if unpriced:
                self._unpriced[month_of(hour)][one.team, one.use_case] += unpriced

    def _add(self, one: _New) -> None:
        owner = (one.team, one.use_case)
        self._booked[one.booked][owner] += one.cost
        self._days[one.day][owner] += one.cost
        self._recent[owner] += one.cost

    def _drop(self, month: int, day: int) -> None:
        """Forget what is of older months, and days that are too long ago."""
        for kept in (self._booked, self._unpriced):
            for old in [one for one in kept if one < month]:
                del kept[old]
        for old in [one for one in self._days if one < day]:
            for owner, cost in self._days.pop(old).items():
                self._recent[owner] -= cost
                if not self._recent[owner]:
                    del self._recent[owner]

    def _all(self, month: int, open_: Mapping[Payer, Sequence[int]]) -> dict[Whose, Spent]:
        """By team and use case, by team, and by use case."""
        each: defaultdict[Owner, list[int]] = defaultdict(lambda: [0, 0, 0])
        for place, kept in enumerate((self._booked[month], self._recent, self._unpriced[month])):
            for owner, amount in kept.items():
                each[owner][place] += amount
        for (of, team, use_case), (cost, unpriced) in open_.items():
            now = (cost, cost, unpriced) if of == month else (0, cost, 0)
            rollups.plus(each[team, use_case], now)
        sums: defaultdict[Whose, list[int]] = defaultdict(lambda: [0, 0, 0])
        for (team, use_case), amounts in each.items():
            for whose in ((team, use_case), (team, None), (None, use_case)):
                rollups.plus(sums[whose], amounts)
        return {whose: Spent(*amounts) for whose, amounts in sums.items()}


def _sums() -> Sums:
    return defaultdict(lambda: defaultdict(int))


def _rolled(connection: Connection, month: int, day: int) -> Iterable[_New]:
    """All that is booked in this month or later, and all that was used since that day."""
    at, facet = schema.rollup_day.c, schema.facet.c
    query = (
        select(at.booked, at.day, facet.team, facet.use_case, func.sum(at.cost))
        .select_from(schema.rollup_day)
        .join(schema.facet, facet.id == at.facet_id)
        .where(
            at.booked >= min(month, month_of(day * DAY)),
            or_(at.booked >= month, at.day >= day),
            at.kind < FIRST_USE,
        )
        .group_by(at.booked, at.day, facet.team, facet.use_case)
    )
    for booked, of, team, use_case, cost in connection.execute(query):
        yield _New(booked, of, team, use_case, int(cost))


def _settled(connection: Connection, seq: int) -> Iterable[tuple[_New, int, int]]:
    """What was closed or corrected since then, its hour, and its time without a price."""
    at, charge, who = schema.settlement.c, schema.charge.c, schema.attribution.c
    same = (charge.node_id == at.node_id, charge.hour == at.hour, charge.revision == at.revision)
    unpriced = func.sum(case((charge.price_id == 0, charge.held), else_=0))
    keys = (at.booked, at.hour, who.team, who.use_case)
    query = (
        select(*keys, func.sum(charge.cost), unpriced)
        .select_from(schema.settlement)
        .join(schema.charge, and_(*same))
        .join(schema.attribution, who.id == charge.attribution_id)
        .where(at.seq > seq, charge.kind < FIRST_USE)
        .group_by(*keys)
    )
    for booked, hour, team, use_case, cost, held in connection.execute(query):
        yield _New(booked, hour // DAY, team, use_case, int(cost)), hour, int(held)


def _unpriced(connection: Connection, month: int) -> Iterable[tuple[str, str, int]]:
    """Time of pods in hours of this month that has no price, corrections included."""
    at, charge, who = schema.settlement.c, schema.charge.c, schema.attribution.c
    first, end = hours_of(month)
    # Written out, as the index is: with a parameter in its place SQLite would not use that one.
    lacking = (at.unpriced > literal_column("0"), at.hour >= first, at.hour < end)
    hours = select(at.node_id, at.hour).where(*lacking).distinct().subquery()
    same: Any = (charge.node_id == hours.c.node_id, charge.hour == hours.c.hour)
    query = (
        select(who.team, who.use_case, func.sum(charge.held))
        .select_from(hours)
        .join(schema.charge, and_(*same))
        .join(schema.attribution, who.id == charge.attribution_id)
        .where(charge.price_id == 0, charge.kind < FIRST_USE)
        .group_by(who.team, who.use_case)
    )
    for team, use_case, held in connection.execute(query):
        yield team, use_case, int(held)
