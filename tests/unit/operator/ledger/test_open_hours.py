"""What is kept of open hours from one publication to the next is what reading everything anew would say."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest
from ledgers import START, Book, attribution, node, parts, pod, world
from money_oracle import trace
from money_oracle.tangle import BEGIN, tangle
from money_traces import facts_of, rows_of
from sqlalchemy import event, select
from stored_hours import Traced

from mlenv_operator.cost import metering
from mlenv_operator.cost.facts import HOUR, SECOND, Attributed, Category, Mark, Pod
from mlenv_operator.cost.prices import PriceBook
from mlenv_operator.ledger import facts, names, rollups, schema
from mlenv_operator.ledger.exports import MemoryMarks
from mlenv_operator.ledger.ledger import Ledger, open_ledger
from mlenv_operator.ledger.opening import HOURS
from mlenv_operator.ledger.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlenv_operator.cost.facts import Fact, Micros
    from mlenv_operator.ledger.live import LiveJob
    from mlenv_operator.ledger.openhours import Opened

MINUTE = 60 * SECOND


def anew(ledger: Ledger, now: Micros) -> tuple[dict[tuple[str, str], list[int]], dict[tuple[str, str], int]]:
    """Counters and unpriced time of open hours by the plain way: every fact read, every floor taken."""
    counters: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    unpriced: dict[tuple[str, str], int] = defaultdict(int)
    at, this = schema.node.c, now // HOUR
    with ledger.database.reading() as connection:
        for hour in range(this + 1 - HOURS, this + 1):
            query = select(at.id).where(at.next_hour <= hour, at.created < (hour + 1) * HOUR)
            some = list(connection.execute(query).scalars())
            for one in facts.read(connection, some, hour * HOUR, now).nodes:
                segments = ledger.prices.segments(one.node, hour * HOUR, (hour + 1) * HOUR)
                closing = metering.so_far(hour * HOUR, *facts.arguments(one, segments), until=now)
                if closing.unpriced:
                    unpriced[one.node.instance_type, one.node.capacity_type] += closing.unpriced
                machine = dict(zip(schema.MACHINES, names.machine_of(one.node), strict=True))
                for row in closing.rows:
                    who = dict(zip(schema.FACETS, names.facet_of(row.attribution), strict=True))
                    kind = row.category or row.use
                    assert kind is not None
                    for key in rollups.counters_of(who, machine, schema.KINDS[kind]):
                        rollups.plus(counters[key], (row.held, row.gpu_micros, row.cost, row.list_cost))
    return dict(counters), dict(unpriced)


def looked(ledger: Ledger, now: Micros) -> tuple[Opened, tuple[LiveJob, ...]]:
    """As the ledger that publishes sees it."""
    with ledger.database.reading() as connection:
        opened = ledger._open.look(connection, now)
        return opened, ledger._lives.look(connection, opened.jobs, now)


def assert_kept_is_anew(ledger: Ledger, now: Micros) -> tuple[LiveJob, ...]:
    """The same from what is kept, from a ledger that has nothing yet, and from the plain way."""
    opened, jobs = looked(ledger, now)
    counters, unpriced = anew(ledger, now)
    assert opened.counters == counters
    assert opened.unpriced == unpriced
    other, others = looked(Ledger(ledger.database, ledger.prices), now)
    assert other.counters == counters
    assert others == jobs
    for one in jobs:
        told = ledger.job(one.uid, now)
        assert (one.cost, one.rate) == (told.cost, told.rate)
        assert one.gpu_micros == sum(amounts.gpu_micros for amounts in told.by_category.values())
        assert one.unpriced_micros == told.unpriced
        assert one.productive == getattr(told.by_category.get("productive"), "gpu_micros", 0)
    return jobs


def moments(rng: random.Random, begin: Micros, count: int) -> Iterator[Micros]:
    """Publications: mostly half a minute apart, some on a full minute, hours apart, or back in time."""
    now = begin
    for _ in range(count):
        now += rng.choice([30 * SECOND, 30 * SECOND, SECOND // 7, 11 * MINUTE, HOUR, -2 * MINUTE])
        yield now if rng.random() < 0.7 else now // MINUTE * MINUTE


def told_in_pieces(ledger: Ledger, rng: random.Random, some: list[Fact], begin: Micros) -> int:
    """Tell, settle and look in turns; how many live jobs were compared."""
    jobs = 0
    for now in moments(rng, begin, 14):
        batch, some = some[: (size := rng.randrange(1 + len(some) // 3))], some[size:]
        ledger.observe(batch)
        if rng.random() < 0.5:
            ledger.settle_all(now)
        jobs += len(assert_kept_is_anew(ledger, now))
    return jobs


@pytest.mark.parametrize("seed", range(6))
def test_as_things_happen_and_are_told(ledger: Ledger, seed: int) -> None:
    rng = random.Random(seed)
    assert told_in_pieces(ledger, rng, parts(world(seed, nodes=4, jobs=10)), START + 20 * MINUTE)


def test_facts_without_any_sense_in_any_order(new_dsn: Callable[[], str]) -> None:
    jobs = 0
    for seed in range(25):
        made, _ = tangle(seed)
        prices = Traced(PriceBook(rows_of(made)))
        ledger = open_ledger(new_dsn(), prices)
        ledger.begin(Writer(1, "operator"))
        told = list(facts_of(one for one in made if not isinstance(one, trace.Price)))
        jobs += told_in_pieces(ledger, random.Random(seed), told, BEGIN + 30 * MINUTE)
        ledger.database.close()
    assert jobs > 50


def test_a_changed_price_is_seen_at_once(ledger: Ledger, book: Book) -> None:
    ledger.observe(world(1, nodes=2, jobs=6))
    now = START + 50 * MINUTE
    before = assert_kept_is_anew(ledger, now)
    book.prices = {name: price * 2 for name, price in book.prices.items()}
    after = assert_kept_is_anew(ledger, now)
    assert sum(job.cost for job in after) > sum(job.cost for job in before) > 0


def statements(ledger: Ledger) -> list[str]:
    """What the ledger reads from now on, as it goes."""
    said: list[str] = []

    @event.listens_for(ledger.database.reading_engine, "before_cursor_execute")
    def note(_: object, __: object, statement: str, *___: object) -> None:
        said.append(statement)

    return said


def test_facts_of_which_nothing_has_changed_are_not_read_again(ledger: Ledger) -> None:
    one, two = node("a"), node("b")
    ledger.observe([one, two, *(Attributed(f"uid-{job}", 0, attribution(job)) for job in "jk")])
    ledger.observe([pod("p", "j", one, started=START + MINUTE), pod("q", "k", two, started=START + MINUTE)])
    marks = MemoryMarks()
    before = ledger.publish(marks, START + 10 * MINUTE)
    said = statements(ledger)
    after = ledger.publish(marks, START + 11 * MINUTE)
    assert not [text for text in said if "FROM mark" in text or "JOIN mark" in text]
    assert all(new.cost > old.cost for old, new in zip(before.jobs, after.jobs, strict=True))
    # A word of one pod has its node read, and no other.
    read: list[int] = []
    put = ledger._open._put
    ledger._open._put = lambda one, *rest: (read.append(one.id), put(one, *rest))[1]  # type: ignore[method-assign]
    ledger.observe([Mark("uid-p", START + 11 * MINUTE, 0, 1, Category.EVAL)])
    assert_kept = ledger.publish(marks, START + 12 * MINUTE)
    assert len(read) == 1
    assert [job.attribution.job for job in assert_kept.jobs] == ["j", "k"]


def test_nothing_is_kept_of_what_has_gone(ledger: Ledger) -> None:
    one = node("a")
    ledger.observe([one, Attributed("uid-j", 0, attribution("j"))])
    held = pod("p", "j", one, started=START + MINUTE)
    ledger.observe([held])
    marks, end = MemoryMarks(), START + 30 * MINUTE
    ledger.publish(marks, end)
    ledger.observe([Pod(**{**_fields(held), "finished": end, "released": end})])
    for hours in range(1, 4):
        ledger.settle_all(START + hours * HOUR + 10 * MINUTE)
        shown = ledger.publish(marks, START + hours * HOUR + 10 * MINUTE)
    assert shown.jobs == ()
    assert not ledger._open._jobs
    assert not ledger._lives._lives
    assert [str(one.key[-1]) for one in ledger._open._counted.values()] == ["idle"]


def _fields(one: Pod) -> dict[str, object]:
    return {name: getattr(one, name) for name in Pod.__slots__}
