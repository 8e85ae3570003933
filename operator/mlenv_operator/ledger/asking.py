"""Questions about costs, answered: filtered, grouped and bounded by the database; of all, or of some."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Integer, and_, func, literal_column, select

from mlenv_operator.cost.facts import HOUR
from mlenv_operator.ledger import queries, rollups, schema
from mlenv_operator.ledger.calendar import DAY, month_of, show_hour, show_month
from mlenv_operator.ledger.database import Database
from mlenv_operator.ledger.errors import LedgerUnavailable
from mlenv_operator.ledger.questions import MAX_GROUPS, QuestionError
from mlenv_operator.ledger.rollups import Amounts
from mlenv_operator.ledger.schema import AMOUNTS, FACETS, KINDS, MACHINES, WORDS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection, Select

    from mlenv_operator.cost.facts import Micros
    from mlenv_operator.ledger.questions import Question

NONE: Final = Amounts(0, 0, 0, 0)
SAME_NAME: Final = 20
_EMPTY: Final[ColumnElement[Any]] = literal_column("''")
_DAY: Final[ColumnElement[Any]] = literal_column(str(DAY), Integer)
"""Not a parameter: PostgreSQL must see that what is grouped by is what is selected."""
STEPS: Final = 20_000
"""Of SQLite, between two looks at the clock."""


class TooSlow(LedgerUnavailable):
    """The answer was not there in time."""


class ReadOnly(Database):
    """A database for questions of others: nothing is written, and nothing takes longer than it may."""

    def __init__(self, dsn: str, seconds: float) -> None:
        super().__init__(dsn)
        self.seconds = seconds

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """As everywhere, but bounded; raises TooSlow."""
        deadline = time.monotonic() + self.seconds
        try:
            with super().reading() as connection, self._bounded(connection, deadline):
                yield connection
        except LedgerUnavailable as error:
            if time.monotonic() < deadline:
                raise
            raise TooSlow(
                f"The ledger had no answer within {self.seconds:g} s: ask for less time, for fewer "
                "things at once, or not by job, pod or node."
            ) from error

    @contextmanager
    def _bounded(self, connection: Connection, deadline: float) -> Iterator[None]:
        if not self.is_sqlite:
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = {int(self.seconds * 1000)}")
            connection.exec_driver_sql("SET TRANSACTION READ ONLY")
            yield
            return
        raw: Any = connection.connection.driver_connection
        raw.set_progress_handler(lambda: time.monotonic() > deadline, STEPS)
        try:
            yield
        finally:
            raw.set_progress_handler(None, 0)


@dataclass(frozen=True, slots=True)
class Costs:
    """An answer: some groups, what the others are together, and the sum of all."""

    groups: list[tuple[tuple[str, ...], Amounts]]
    rest: Amounts
    total: Amounts
    count: int
    """Of groups, shown or not."""
    settled_until: Micros | None
    """Hours from here on are still open, and not in it."""


def ask(connection: Connection, question: Question, namespaces: Collection[str] | None) -> Costs:
    """What it cost; of these namespaces alone, or of everything."""
    sums: dict[tuple[str, ...], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for query in _queries(connection, question, namespaces):
        rows = connection.execute(query.limit(MAX_GROUPS + 1)).all()
        for row in rows:
            key = tuple(map(_shown, question.by, row))
            rollups.plus(sums[key], (int(one) for one in row[len(question.by) :]))
        if max(len(rows), len(sums)) > MAX_GROUPS:
            raise QuestionError(
                f"These are more than {MAX_GROUPS} groups: ask by less, filter, or for less time."
            )
    found = [(key, Amounts(*amounts)) for key, amounts in sorted(sums.items()) if any(amounts)]
    return _paged(question, found, queries.settled_until(connection))


def _paged(
    question: Question, found: list[tuple[tuple[str, ...], Amounts]], settled_until: int | None
) -> Costs:
    if question.sort == "cost":
        found.sort(key=lambda one: -one[1].cost)
    at = question.page
    shown = found[at.offset : at.offset + at.limit]
    total, here = (added(amounts for _, amounts in some) for some in (found, shown))
    rest = Amounts(*(a - b for a, b in zip(total, here, strict=True)))
    return Costs(shown, rest, total, len(found), None if settled_until is None else settled_until * HOUR)


def added(amounts: Any) -> Amounts:
    """The sum of amounts."""
    sums = [0, 0, 0, 0]
    for one in amounts:
        rollups.plus(sums, one)
    return Amounts(*sums)


def _shown(name: str, value: Any) -> str:
    shows: dict[str, Callable[[int], str]] = {
        "category": lambda kind: str(WORDS[kind]),
        "hour": show_hour,
        "day": lambda day: show_hour(day * DAY)[:10],
        "month": lambda day: show_month(month_of(day * DAY)),
    }
    return shows[name](value) if name in shows else "" if value is None else str(value)


def _queries(
    connection: Connection, question: Question, namespaces: Collection[str] | None
) -> list[Select[Any]]:
    if question.of_charges:
        return [_of_charges(question, namespaces)]
    return [
        _of_sums(table, where, question, namespaces)
        for table, where in (
            _booked(question) if question.month is not None else _parts(connection, question)
        )
    ]


def _booked(question: Question) -> list[tuple[Any, list[ColumnElement[bool]]]]:
    table = schema.rollup_hour if "hour" in question.by else schema.rollup_day
    return [(table, [table.c.booked == question.month])]


def _parts(connection: Connection, question: Question) -> list[tuple[Any, list[ColumnElement[bool]]]]:
    """Whole days from the days, what is left at both ends from the hours."""
    first, last = question.since // HOUR, question.until // HOUR
    day0, day1 = -(-first // DAY), last // DAY
    days, hours = schema.rollup_day.c, schema.rollup_hour.c
    months = queries.booked_since(connection, month_of(first))
    at_hours, at_days = hours.booked.in_(months), days.booked.in_(months)
    if day0 >= day1 or "hour" in question.by:
        return [(schema.rollup_hour, [at_hours, hours.hour >= first, hours.hour < last])]
    return [
        (schema.rollup_day, [at_days, days.day >= day0, days.day < day1]),
        (schema.rollup_hour, [at_hours, hours.hour >= first, hours.hour < day0 * DAY]),
        (schema.rollup_hour, [at_hours, hours.hour >= day1 * DAY, hours.hour < last]),
    ]


def _of_sums(
    table: Any, where: list[ColumnElement[bool]], question: Question, namespaces: Collection[str] | None
) -> Select[Any]:
    facet, machine = schema.facet, schema.machine
    known: dict[str, ColumnElement[Any]] = {
        **{name: func.coalesce(facet.c[name], _EMPTY) for name in FACETS},
        **{name: machine.c[name] for name in MACHINES},
        "category": table.c.kind,
    }
    day = table.c.day if "day" in table.c else table.c.hour // _DAY
    known |= {"day": day, "month": day, **({"hour": table.c.hour} if "hour" in table.c else {})}
    source = table.outerjoin(facet, facet.c.id == table.c.facet_id).join(
        machine, machine.c.id == table.c.machine_id
    )
    return _grouped(source, known, table, [*where, *_filters(question, known, namespaces)], question.by)


def _of_charges(question: Question, namespaces: Collection[str] | None) -> Select[Any]:
    charge, node, whom = schema.charge, schema.node, schema.attribution
    known: dict[str, ColumnElement[Any]] = {
        **{name: func.coalesce(whom.c[name], _EMPTY) for name in (*FACETS, "job", "job_uid")},
        **{name: node.c[name] for name in MACHINES},
        "category": charge.c.kind,
        "pod": func.coalesce(schema.pod.c.name, _EMPTY),
        "node": node.c.name,
        "price_id": func.coalesce(schema.price.c.price_id, _EMPTY),
        "attempt": charge.c.attempt,
        "hour": charge.c.hour,
        "day": charge.c.hour // _DAY,
        "month": charge.c.hour // _DAY,
    }
    source = (
        charge.join(node, node.c.id == charge.c.node_id)
        .outerjoin(whom, whom.c.id == charge.c.attribution_id)
        .outerjoin(schema.pod, schema.pod.c.id == charge.c.pod_id)
        .outerjoin(schema.price, schema.price.c.id == charge.c.price_id)
    )
    where = _filters(question, known, namespaces)
    if question.month is None:
        where += [charge.c.hour >= question.since // HOUR, charge.c.hour < question.until // HOUR]
    else:
        at = schema.settlement.c
        same = [charge.c[key] == at[key] for key in ("node_id", "hour", "revision")]
        source = source.join(schema.settlement, and_(*same))
        where.append(at.booked == question.month)
    return _grouped(source, known, charge, where, question.by)


def _grouped(
    source: Any,
    known: Mapping[str, ColumnElement[Any]],
    table: Any,
    where: Sequence[ColumnElement[bool]],
    by: Sequence[str],
) -> Select[Any]:
    keys = [known[name] for name in by]
    sums = [func.sum(table.c[name]) for name in AMOUNTS]
    labelled = [key.label(f"key{place}") for place, key in enumerate(keys)]
    return select(*labelled, *sums).select_from(source).where(*where).group_by(*keys)


def _filters(
    question: Question, known: Mapping[str, ColumnElement[Any]], namespaces: Collection[str] | None
) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if namespaces is not None:
        found.append(known["namespace"].in_(sorted(namespaces)))
    numbers = {str(kind): number for kind, number in KINDS.items()}
    for name, values in question.where.items():
        stored: list[Any] = list(values)
        if name == "category":
            stored = [numbers[value] for value in values]
        elif name == "attempt":
            stored = [int(value) for value in values]
        found.append(known[name].in_(stored))
    return found


def namespaces_of(connection: Connection) -> list[str]:
    """All namespaces in which something was spent."""
    at = schema.facet.c.namespace
    return list(connection.execute(select(at).where(at != "").distinct().order_by(at)).scalars())


def jobs_named(connection: Connection, namespace: str, name: str, uid: str | None) -> list[str]:
    """UIDs of the jobs that had this name, the newest first; or only that of this UID, if it had."""
    at = schema.attribution.c
    query = select(at.job_uid, func.max(at.id)).where(at.namespace == namespace, at.job == name)
    query = query.where(at.job_uid != "")
    if uid is not None:
        said = schema.attributed.c
        number = select(schema.uid.c.id).where(schema.uid.c.uid == uid).scalar_subquery()
        query = query.where(at.id.in_(select(said.attribution_id).where(said.job_id == number)))
    newest = func.max(at.id).desc()
    return [
        row[0] for row in connection.execute(query.group_by(at.job_uid).order_by(newest).limit(SAME_NAME))
    ]
