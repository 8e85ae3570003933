"""One writer at a time, however many believe that they lead."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from ledgers import START, Book, content, node, world
from sqlalchemy import delete, insert

from mlenv_operator.cost.facts import HOUR
from mlenv_operator.ledger import migrations, schema
from mlenv_operator.ledger.database import Database, explain, url_of
from mlenv_operator.ledger.errors import LedgerError, LedgerUnavailable, StaleWriter, WrongSchema
from mlenv_operator.ledger.ledger import open_ledger
from mlenv_operator.ledger.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlenv_operator.ledger.ledger import Ledger


def test_a_stale_writer_changes_nothing(dsn: str) -> None:
    old, new = open_ledger(dsn, Book()), open_ledger(dsn, Book())
    old.begin(Writer(4, "a"))
    old.observe([node("x")])
    new.begin(Writer(5, "b"))
    before = content(new)
    for write in (
        lambda: old.observe([node("y")]),
        lambda: old.settle(START + 9 * HOUR),
        lambda: old.close_month(202501, START + 9999 * HOUR),
        lambda: old.look_again(0, START + HOUR, "x"),
    ):
        with pytest.raises(StaleWriter, match="belongs to b since term 5"):
            write()
    assert content(new) == before
    with pytest.raises(StaleWriter):
        old.begin(Writer(4, "a"))
    with pytest.raises(StaleWriter):
        old.begin(Writer(5, "a"))  # a term has one leader
    new.begin(Writer(5, "b"))  # the same one again: a restart within its term


def test_whoever_takes_over_waits_for_the_transaction_that_is_under_way(dsn: str) -> None:
    old, new = open_ledger(dsn, Book()), open_ledger(dsn, Book())
    old.begin(Writer(1, "a"))
    taken = threading.Event()

    def take() -> None:
        new.begin(Writer(2, "b"))
        taken.set()

    thread = threading.Thread(target=take)
    with old.database.changing() as connection:
        connection.execute(insert(schema.uid).values(id=1, uid="first"))
        thread.start()
        assert not taken.wait(0.2)
    thread.join(30)
    assert taken.is_set()
    assert "first" in content(new)


def test_nobody_writes_without_having_taken_over(dsn: str) -> None:
    ledger = open_ledger(dsn, Book())
    with pytest.raises(StaleWriter, match="take"):
        ledger.observe(world(1))


def test_a_newer_schema_is_refused(dsn: str) -> None:
    database = Database(dsn)
    with pytest.raises(WrongSchema, match="migrate"):
        database.check()
    assert database.migrate() == len(migrations.MIGRATIONS)
    assert database.migrate() == 0
    database.check()
    with database.writing.begin() as connection:
        connection.execute(insert(schema.migration).values(number=99, name="later"))
    for refused in (database.check, database.migrate):
        with pytest.raises(WrongSchema, match="has schema 99, and this operator knows schemas up to"):
            refused()


def test_a_migration_that_fails_leaves_nothing(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(connection: object) -> None:
        raise ValueError

    steps = (*migrations.MIGRATIONS, ("broken", fail))
    monkeypatch.setattr(migrations, "MIGRATIONS", steps)
    with pytest.raises(ValueError):  # noqa: PT011
        Database(dsn).migrate()
    monkeypatch.undo()
    assert Database(dsn).migrate() == len(migrations.MIGRATIONS)


def test_what_has_no_price_is_found_in_a_ledger_from_before_it_was_counted(dsn: str) -> None:
    book = Book()
    del book.prices["g6"]
    ledger = open_ledger(dsn, book)
    ledger.begin(Writer(1, "operator"))
    ledger.observe(world(3, jobs=10))
    ledger.settle_all(START + 70 * HOUR)
    before = content(ledger)
    assert "job_unpriced [" in before
    number = [name for name, _ in migrations.MIGRATIONS].index("unpriced") + 1
    with ledger.database.writing.begin() as connection:
        schema.job_unpriced.drop(connection)
        connection.execute(delete(schema.migration).where(schema.migration.c.number >= number))
    ledger.database.close()
    assert content(open_ledger(dsn, book)) == before


def test_a_database_that_is_away_is_told_in_a_sentence(new_dsn: Callable[[], str], tmp_path: Path) -> None:
    dsn = new_dsn()
    gone = (
        f"sqlite:///{tmp_path}/none/x.db" if dsn.startswith("sqlite") else dsn.replace("mlenv-pg", "nothing")
    )
    with pytest.raises(LedgerUnavailable, match=r"does not work: .*(folder|up)"):
        open_ledger(gone)


def test_other_databases_are_refused() -> None:
    with pytest.raises(LedgerError, match="not in mysql"):
        url_of("mysql://x/y")
    with pytest.raises(LedgerError, match="names no file"):
        url_of("sqlite://")


@pytest.mark.parametrize(
    ("said", "cure"),
    [
        ("database or disk is full", "Make room"),
        ("attempt to write a readonly database", "read-only"),
        ("cannot execute INSERT in a read-only transaction", "replica"),
        ("could not extend file: No space left on device", "Make room"),
        ("something else", "tried again"),
    ],
)
def test_failures_come_with_what_to_do(said: str, cure: str) -> None:
    assert cure in explain(said)


def test_readers_see_one_state_while_another_writes(ledger: Ledger) -> None:
    from sqlalchemy import func, select

    ledger.observe([node("a")])
    count = select(func.count()).select_from(schema.node)
    with ledger.database.reading() as connection:
        assert connection.execute(count).scalar() == 1
        ledger.observe([node("b")])
        assert connection.execute(count).scalar() == 1
