"""The ledger: one object for everything that can be done with it, synchronous, for one thread that writes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import literal, select

from mlenv_operator.cost import metering
from mlenv_operator.cost.facts import HOUR
from mlenv_operator.ledger import (
    explaining,
    exports,
    intake,
    months,
    opening,
    queries,
    remarks,
    remembered,
    schema,
    settling,
    sharing,
)
from mlenv_operator.ledger.auditing import Audit
from mlenv_operator.ledger.database import Database, sqlite_file, url_of
from mlenv_operator.ledger.exports import FileMarks, MemoryMarks
from mlenv_operator.ledger.live import Lives
from mlenv_operator.ledger.monthly import Monthly
from mlenv_operator.ledger.openhours import OpenHours
from mlenv_operator.ledger.prices import NoPrices

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from mlenv_operator.cost.facts import Fact, Micros, Nanos
    from mlenv_operator.cost.observe_spent import Metered
    from mlenv_operator.ledger.explaining import Line, Name
    from mlenv_operator.ledger.exports import Exposition, Marks
    from mlenv_operator.ledger.intake import Observed
    from mlenv_operator.ledger.opening import SoFar
    from mlenv_operator.ledger.prices import PriceSource
    from mlenv_operator.ledger.queries import Counter, UnpricedHour
    from mlenv_operator.ledger.remembered import Remembered
    from mlenv_operator.ledger.rollups import Amounts
    from mlenv_operator.ledger.settling import Close, Rules, Settled
    from mlenv_operator.ledger.writer import Writer

MARKS: Final = "counters.json"
"""In a folder: what counters showed last."""


@dataclass(frozen=True, slots=True)
class JobCost:
    """What a job cost so far: closed hours, and the floors of open ones."""

    by_category: dict[str, Amounts]
    cost: Nanos
    list_cost: Nanos
    rate: Nanos
    """An hour, now."""
    as_of: Micros
    unpriced: Micros = 0
    """Time held of which nobody knows the price: its cost is in no sum."""


class Ledger:
    """Facts in, money out. Open it with `open_ledger`."""

    def __init__(
        self,
        database: Database,
        prices: PriceSource | None = None,
        rules: Rules | None = None,
        close: Close = metering.close,
        so_far: SoFar = metering.so_far,
    ) -> None:
        self.database = database
        self.prices = prices or NoPrices()
        self.rules = rules or settling.Rules()
        self._close = close
        self._so_far = so_far
        self._audit = Audit()
        self._open = OpenHours(metering.growth, self.prices)
        self._lives = Lives()
        self._monthly = Monthly()

    def begin(self, writer: Writer, since: Micros = 0) -> None:
        """Take the ledger over for writing, now. In a new one nothing before `since` is accounted, ever."""
        self.database.take(writer)
        self._forget()  # another may have written meanwhile
        with self.database.changing() as connection:
            if new := remarks.get(connection, "since") is None:
                remarks.put(connection, "since", str(since // HOUR))
            sharing.choose(connection, self.rules.shares, since, new=new)

    def remembered(self, job_uids: Collection[str]) -> Remembered:
        """What was told last, of these jobs and of all nodes and pods that may go on."""
        with self.database.reading() as connection:
            return remembered.read(connection, job_uids)

    def observe(self, facts: Iterable[Fact | Metered]) -> Observed:
        """Store facts, durably when this returns; the same again, in any order, changes nothing."""
        told = list(facts)
        with self.database.changing() as connection:
            observed = intake.observe(connection, told, int(remarks.get(connection, "since") or 0))
        self._open.told(told, observed.touched)
        self._lives.told(told)
        return observed

    def settle(self, now: Micros) -> Settled:
        """Close or correct some node-hours of one hour. Call again until `looked_at` is 0."""
        with self.database.changing() as connection:
            settled = settling.settle(connection, self._close, self.prices, now, self.rules)
        self._lives.done(settled.done)
        return settled

    def settle_all(self, now: Micros) -> Settled:
        """Settle until there is nothing to do."""
        total = settling.Settled()
        while (done := self.settle(now)).looked_at:
            total = settling.Settled(
                total.closed + done.closed,
                total.corrected + done.corrected,
                total.looked_at + done.looked_at,
                done.waiting,
            )
        return total

    def look_again(self, since: Micros, until: Micros, reason: str, *, only_unpriced: bool = False) -> int:
        """Have closed hours within [since, until) corrected, as after a change of prices; how many."""
        at = schema.settlement.c
        query = select(at.hour, at.node_id, literal(reason).label("reason")).where(
            at.revision == 0, at.hour >= since // HOUR, at.hour < -(-until // HOUR)
        )
        if only_unpriced:
            query = query.where(at.unpriced > 0)
        with self.database.changing() as connection:
            return intake.add_missing(connection, schema.dirty, query)

    def reprice(self, now: Micros) -> int:
        """When prices have changed, have closed hours without one looked at again; how many."""
        version = self.prices.version()
        with self.database.reading() as connection:
            if (remarks.get(connection, "prices") or "") == version:
                return 0
        found = self.look_again(0, now, "price", only_unpriced=True)
        with self.database.changing() as connection:
            remarks.put(connection, "prices", version)
        return found

    def job(self, job_uid: str, now: Micros) -> JobCost:
        """What the job cost so far, and costs now."""
        with self.database.reading() as connection:
            sums = {kind: list(amounts) for kind, amounts in queries.of_job(connection, job_uid).items()}
            nodes = opening.nodes_of(connection, job_uid)
            at = (self.prices, now, nodes, job_uid)
            open_ = opening.floors(connection, self._so_far, *at) if nodes else opening.Floors({}, 0)
            unpriced = queries.unpriced_of(connection, job_uid) + open_.unpriced
            for kind, amounts in open_.by_category.items():
                old = sums.setdefault(kind, [0, 0, 0, 0])
                sums[kind] = [a + b for a, b in zip(old, amounts, strict=True)]
            rate = opening.rate(connection, metering.growth, *at) if nodes else 0
        named = {kind: opening.amounts(amounts) for kind, amounts in sorted(sums.items())}
        cost, list_cost = (
            sum(getattr(one, what) for one in named.values()) for what in ("cost", "list_cost")
        )
        return JobCost(named, cost, list_cost, rate, now, unpriced)

    def publish(self, marks: Marks, now: Micros) -> Exposition:
        """What counters may show now; raises BelowMark where that would be less than was shown."""
        try:
            with self.database.reading() as connection:
                open_ = self._open.look(connection, now)
                jobs = self._lives.look(connection, open_.jobs, now)
                month = self._monthly.look(connection, open_.payers, now)
                health = self._audit.look(connection, open_.unpriced)
        except BaseException:
            self._forget()  # half of it may be from before
            raise
        shown = exports.publish(self.database, marks, open_.counters, now)
        return replace(shown, jobs=jobs, month=month, health=health)

    def _forget(self) -> None:
        """Have the next publication read everything."""
        self._open.forget()
        self._lives.forget()
        self._monthly.forget()

    def counters(self, family: str) -> list[Counter]:
        """Sums since installation, corrections included: `jobs`, `models` or `nodes`."""
        with self.database.reading() as connection:
            return queries.counters(connection, family)

    def group(self, by: Sequence[str], since: Micros, until: Micros) -> dict[tuple[str, ...], Amounts]:
        """Closed hours of a time, by anything: by when it was used."""
        with self.database.reading() as connection:
            return queries.group(connection, by, since, until)

    def month(self, by: Sequence[str], month: int) -> dict[tuple[str, ...], Amounts]:
        """What is booked in a month, by anything that roll-ups know: what its bill says."""
        with self.database.reading() as connection:
            return queries.of_month(connection, by, month)

    def explain(self, job_uid: str) -> list[Line]:
        """Every charge of a job, with pod, intervals and price row."""
        with self.database.reading() as connection:
            return explaining.explain(connection, job_uid)

    def audit(self, name: Name) -> Line:
        """Where one charge comes from."""
        with self.database.reading() as connection:
            return explaining.audit(connection, name)

    def unpriced(self) -> list[UnpricedHour]:
        """Closed hours with time of which nobody knows the price."""
        with self.database.reading() as connection:
            return queries.unpriced(connection)

    def imbalance(self) -> int:
        """Nanodollars by which sums differ that must be equal; reads everything."""
        with self.database.reading() as connection:
            return queries.imbalance(connection)

    def close_month(self, month: int, now: Micros) -> months.Month:
        """Close a month: what is booked in it never changes again. Refused while an hour of it is open."""
        with self.database.changing() as connection:
            return months.close(connection, month, now)


def open_ledger(dsn: str, prices: PriceSource | None = None, rules: Rules | None = None) -> Ledger:
    """The ledger at this DSN, brought to the schema of now."""
    database = Database(dsn)
    database.migrate()
    return Ledger(database, prices, rules)


def marks_of(dsn: str, folder: str) -> Marks:
    """Where it is kept what counters showed last: in the folder, or beside a SQLite ledger."""
    url = url_of(dsn)
    if not folder and url.get_backend_name() != "sqlite":
        return MemoryMarks()
    return FileMarks((Path(folder) if folder else sqlite_file(url).parent) / MARKS)
