"""The ledger beside an event loop: whatever the database does, the loop goes on and no fact is lost."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import ledgers
import postgres
import pytest
from ledgers import START, Book, attribution, node, pod, world
from sqlalchemy import event

from mlenv_operator.cost.facts import HOUR, SECOND, Attributed, Mark, Pod
from mlenv_operator.ledger import accountant as module
from mlenv_operator.ledger.accountant import Accountant, Pace
from mlenv_operator.ledger.errors import LedgerUnavailable
from mlenv_operator.ledger.exports import Mark as Exported
from mlenv_operator.ledger.exports import MemoryMarks
from mlenv_operator.ledger.ledger import open_ledger
from mlenv_operator.ledger.writer import Writer
from mlenv_operator.runtime.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from mlenv_operator.ledger.ledger import Ledger

QUICK = Pace(gather_s=0.01, settle_s=0.01, publish_s=0.01, publish_share=1, retry_s=0.01, retry_cap_s=0.05)
NOW = START + 9 * HOUR


class Later(SystemClock):
    """The real clock, but the day is in the world's January."""

    def now(self) -> datetime:
        return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=NOW)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(120):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@asynccontextmanager
async def running(one: Accountant, writer: Writer | None = None) -> AsyncIterator[Accountant]:
    task = asyncio.create_task(one.run(writer or Writer(2, "leader")))
    try:
        yield one
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def accountant(open_: Callable[[], Ledger], pace: Pace = QUICK, **more: object) -> Accountant:
    return Accountant(open_, Later(), MemoryMarks(), pace, **more)  # type: ignore[arg-type]


def ended() -> Pod:
    return pod("p", "j", node("a"), started=START + 9 * SECOND, finished=START + HOUR, released=START + HOUR)


async def test_facts_are_stored_settled_and_shown(new_ledger: Callable[[], Ledger], dsn: str) -> None:
    facts = world(4)
    stored: list[Pod] = []
    account_from_the_beginning(dsn)
    async with running(accountant(lambda: open_ledger(dsn, Book()), on_durable=stored.append)) as one:
        assert all(one.offer(fact) for fact in facts)
        await until(lambda: one.figures.stored >= len(set(facts)) and one.figures.closed >= 15)
        await until(lambda: one.figures.exposition and one.figures.exposition.families)
    assert {fact for fact in facts if isinstance(fact, Pod) and fact.released} == set(stored)
    assert (one.figures.waiting, one.figures.condition) == (0, "")
    direct = new_ledger()
    direct.observe(facts)
    direct.settle_all(NOW)
    ledger = open_ledger(dsn, Book())
    ledger.database.adopt()
    ledger.settle_all(NOW)
    assert ledgers.money(ledger) == ledgers.money(direct)
    ledger.database.close()


def account_from_the_beginning(dsn: str) -> None:
    """A new ledger begins at the hour in which it is opened; these worlds are older."""
    ledger = open_ledger(dsn, Book())
    ledger.begin(Writer(1, "before"))
    ledger.database.close()


async def test_between_two_transactions_there_is_a_pause_and_all_else_goes_on(dsn: str) -> None:
    async with running(accountant(lambda: open_ledger(dsn, Book()), replace(QUICK, gather_s=3600))) as one:
        assert one.offer(ended())
        await until(lambda: one.figures.stored == 1)
        assert one.offer(Mark("uid-p", START, 0, 0, ledgers.WORKING[0]))
        await until(lambda: one.figures.exposition)
        shown = one.figures.exposition
        await until(lambda: one.figures.exposition is not shown)
        assert (one.figures.stored, one.figures.waiting) == (1, 1)


def test_a_dear_publication_is_followed_by_a_longer_pause() -> None:
    pace = Pace(publish_s=30, publish_cap_s=60, publish_share=0.02)
    assert [pace.after_publication(cpu_s) for cpu_s in (0.0, 0.6, 0.8, 9.0)] == [30, 30, 40, 60]
    # Where publications are wanted rarely, they stay rare.
    assert replace(pace, publish_s=300).after_publication(9.0) == 300


async def test_a_pod_may_go_once_its_end_is_stored(dsn: str) -> None:
    one = accountant(lambda: open_ledger(dsn, Book()))
    end = ended()
    assert one.offer(end)
    assert not one.durable(end)
    async with running(one):
        await until(lambda: one.durable(end))
        alive = replace(end, uid="other", released=None)
        one.offer(alive)
        await until(lambda: not one.figures.waiting)
        assert not one.durable(alive)
        assert not one.durable(replace(end, released=end.released - 1 if end.released else 0))
        assert one.durable(replace(end, finished=None))  # what is told here is less than what is stored


async def test_while_the_database_is_away_facts_wait_and_then_are_refused(dsn: str) -> None:
    there = threading.Event()

    def open_() -> Ledger:
        if not there.is_set():
            raise LedgerUnavailable("The ledger's database does not work: gone.")
        return open_ledger(dsn, Book())

    async with running(accountant(open_, replace(QUICK, bound=3))) as one:
        await until(lambda: "gone" in one.figures.condition and one.figures.failures > 2)
        end, others = ended(), [Mark("uid-p", START + i, i, 0, ledgers.WORKING[0]) for i in range(3)]
        assert [one.offer(fact) for fact in [*others, end]] == [True, True, True, False]
        assert one.offer(others[0])  # it waits already
        assert (one.figures.refused, one.figures.waiting) == (1, 3)
        assert not one.durable(end)
        there.set()
        await until(lambda: not one.figures.waiting and not one.figures.condition)
        assert one.offer(end)
        await until(lambda: one.durable(end))


async def test_a_database_that_hangs_holds_up_nobody(dsn: str) -> None:
    go, begun = threading.Event(), threading.Event()
    ledger = open_ledger(dsn, Book())

    @event.listens_for(ledger.database.writing, "before_cursor_execute")
    def hang(_: object, __: object, statement: str, *___: object) -> None:
        if "INSERT INTO pod " in statement:
            begun.set()
            assert go.wait(120)

    async with running(accountant(lambda: ledger)) as one:
        one.offer(ended())
        await until(begun.is_set)
        for number in range(1000):  # the loop turns, and takes facts
            assert one.offer(Mark("x", START, number, 0, ledgers.WORKING[0]))
            await asyncio.sleep(0)
        one.refresh()
        assert one.figures.waiting == 1000
        assert one.figures.lag_s > 0
        go.set()
        await until(lambda: not one.figures.waiting)


@pytest.mark.postgres
async def test_a_server_that_stops_and_comes_back_is_waited_for() -> None:
    with postgres.server() as server:
        dsn = server.database()
        async with running(accountant(lambda: open_ledger(dsn, Book()))) as one:
            one.offer(node("a"))
            await until(lambda: not one.figures.waiting)
            server.stop()
            one.offer(ended())
            await until(lambda: "does not work" in one.figures.condition)
            assert one.figures.waiting == 1
            server.start()
            await until(lambda: one.durable(ended()) and not one.figures.condition)


async def test_facts_of_a_batch_that_failed_are_stored_by_the_next(dsn: str) -> None:
    ledger, failures = open_ledger(dsn, Book()), [3]

    @event.listens_for(ledger.database.writing, "before_cursor_execute")
    def full(_: object, __: object, statement: str, *___: object) -> None:
        if "INSERT INTO pod " in statement and failures[0]:
            failures[0] -= 1
            raise LedgerUnavailable("The ledger's database does not work: database or disk is full.")

    async with running(accountant(lambda: ledger)) as one:
        one.offer(replace(ended(), released=None))
        one.offer(Attributed("uid-j", 0, attribution("j")))
        await until(lambda: "full" in one.figures.condition)
        one.offer(ended())  # more is told while it waits
        await until(lambda: one.durable(ended()) and not one.figures.condition)
        assert failures == [0]


async def test_a_fact_that_cannot_be_stored_holds_up_no_other(
    dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(accountant(lambda: open_ledger(dsn, Book()))) as one:
        impossible = Mark("uid-p", 1 << 70, 0, 0, ledgers.WORKING[0])
        for fact in (ended(), impossible, node("a")):
            one.offer(fact)
        await until(lambda: one.durable(ended()) and one.figures.impossible == 1)
        await until(lambda: not one.figures.waiting)
    assert "cannot be stored" in caplog.text


async def test_a_leader_that_was_replaced_stores_nothing(dsn: str) -> None:
    ledger = open_ledger(dsn, Book())
    ledger.begin(Writer(7, "the next"))
    async with running(accountant(lambda: open_ledger(dsn, Book()))) as one:
        one.offer(ended())
        await until(lambda: "belongs to the next since term 7" in one.figures.condition)
        assert not one.durable(ended())
        assert one.figures.waiting == 1


async def test_a_ledger_that_may_show_nothing_goes_on_accounting(dsn: str) -> None:
    account_from_the_beginning(dsn)
    async with running(accountant(lambda: open_ledger(dsn, Book()))) as one:
        one._marks.write(Exported(99, "shown by another", {"jobs": 1}))
        one.offer(node("a"))
        await until(lambda: "counters would go back" in one.figures.condition and one.figures.closed)
        assert one.figures.exposition is None


async def test_a_read_only_volume_is_told(tmp_path: Path) -> None:
    dsn = f"sqlite:///{tmp_path}/ledger.db"
    account_from_the_beginning(dsn)

    def open_() -> Ledger:
        ledger = open_ledger(dsn, Book())

        @event.listens_for(ledger.database.writing, "connect")
        def forbid(connection: object, _: object) -> None:
            connection.execute("PRAGMA query_only = 1")  # type: ignore[attr-defined]

        ledger.database.close()
        return ledger

    async with running(accountant(open_)) as one:
        await until(lambda: "readonly" in one.figures.condition)
        assert "read-only" in one.figures.condition


async def test_a_disk_that_is_full_is_told_and_waited_for(tmp_path: Path) -> None:
    dsn, full = f"sqlite:///{tmp_path}/ledger.db", [True]
    account_from_the_beginning(dsn)

    def open_() -> Ledger:
        ledger = open_ledger(dsn, Book())

        @event.listens_for(ledger.database.writing, "connect")
        def limit(connection: object, _: object) -> None:
            if full[0]:  # no page more than there are
                connection.execute("PRAGMA max_page_count = 1")  # type: ignore[attr-defined]

        ledger.database.close()
        return ledger

    async with running(accountant(open_)) as one:
        facts = world(6, jobs=60)
        for fact in facts:
            one.offer(fact)
        await until(lambda: "Make room" in one.figures.condition)
        full[0] = False
        await until(lambda: one.figures.stored >= len(set(facts)) and not one.figures.waiting)


def test_ends_are_forgotten_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 2)
    one = accountant(lambda: open_ledger("sqlite:///x"))
    pods = [replace(ended(), uid=str(i)) for i in range(3)]
    for each in pods:
        one._remember(each)
    assert [one.durable(each) for each in pods] == [False, True, True]


@pytest.mark.parametrize("first", [0, 1])
def test_what_contradicts_itself_while_it_waits_is_completed_as_the_database_would(first: int) -> None:
    one = node("a")
    early = pod("p", "j", one, gpus=1, released=START + 2 * HOUR)
    late = replace(early, scheduled=START + 9 * SECOND, gpus=2, released=START + HOUR, telemetry=True)
    queue = module._Queue()
    for told in ((early, late), (late, early))[first]:
        queue.put(told, 0)
    assert queue.take(9) == [replace(late, scheduled=early.scheduled)]
