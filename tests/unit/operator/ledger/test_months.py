"""A closed month never changes; its file says the same each time; what comes later is booked later."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
from ledgers import START, Book, attribution, node, pod, world
from sqlalchemy.exc import DBAPIError

from mlenv_operator.cost.facts import HOUR, Attributed, Node
from mlenv_operator.ledger import parquet
from mlenv_operator.ledger.calendar import hours_of, month_of, next_month, parse_month, show_hour
from mlenv_operator.ledger.errors import LedgerError, LedgerRefused

if TYPE_CHECKING:
    from pathlib import Path

    from mlenv_operator.ledger.ledger import Ledger

JANUARY = 202501
FEBRUARY = hours_of(202502)[0] * HOUR
END = FEBRUARY - 4 * HOUR


def filled(ledger: Ledger) -> Ledger:
    """Some nodes in the last hours of January, all gone by its end but one."""
    one = node("a", created=END, deleted=FEBRUARY + 2 * HOUR)
    two = node("b", created=END, deleted=FEBRUARY - HOUR)
    held = pod("p", "j", one, scheduled=END + 60, released=FEBRUARY + HOUR)
    ledger.observe([one, two, held, Attributed("uid-j", 0, attribution("j"))])
    return ledger


def test_months_and_hours() -> None:
    assert hours_of(JANUARY)[0] * HOUR == START
    assert [month_of(hour) for hour in (*hours_of(202402), hours_of(202403)[0] - 1)] == [
        202402,
        202403,
        202402,
    ]
    assert hours_of(202402)[1] - hours_of(202402)[0] == 29 * 24
    assert (next_month(202412), parse_month("2024-12"), show_hour(0)) == (202501, 202412, "1970-01-01T00:00Z")


def test_a_month_with_open_hours_is_not_closed(ledger: Ledger) -> None:
    filled(ledger)
    with pytest.raises(LedgerRefused, match="2025-01 is not over yet"):
        ledger.close_month(JANUARY, FEBRUARY - 1)
    with pytest.raises(LedgerRefused, match="hour 2025-01-31T20:00Z of node a is open"):
        ledger.close_month(JANUARY, FEBRUARY)
    ledger.settle_all(FEBRUARY + 5 * HOUR)
    ledger.look_again(END, END + HOUR, "prices")
    with pytest.raises(LedgerRefused, match="waits for a correction"):
        ledger.close_month(JANUARY, FEBRUARY)
    ledger.settle_all(FEBRUARY + 5 * HOUR)
    closed = ledger.close_month(JANUARY, FEBRUARY + 5 * HOUR)
    assert closed.cost == ledger.month([], JANUARY)[()].cost > 0
    assert ledger.close_month(JANUARY, FEBRUARY + 9 * HOUR) == closed


def test_a_late_fact_about_a_closed_month_is_booked_in_the_current_one(
    ledger: Ledger, tmp_path: Path
) -> None:
    filled(ledger)
    ledger.settle_all(FEBRUARY + 5 * HOUR)
    ledger.close_month(JANUARY, FEBRUARY + 5 * HOUR)
    bill = ledger.month(["category", "team"], JANUARY)
    first = parquet.export(ledger.database, JANUARY, tmp_path / "one")
    late = pod("late", "j", node("a"), scheduled=FEBRUARY - 2 * HOUR, released=FEBRUARY - HOUR, gpus=2)
    assert ledger.observe([late]).dirty == {("uid-a", FEBRUARY - 2 * HOUR)}
    ledger.settle_all(FEBRUARY + 6 * HOUR)
    assert ledger.month(["category", "team"], JANUARY) == bill
    again = parquet.export(ledger.database, JANUARY, tmp_path / "two")
    assert again.digest == first.digest
    assert again.path.read_bytes() == first.path.read_bytes()
    used = ledger.group(["pod"], FEBRUARY - 2 * HOUR, FEBRUARY - HOUR)
    assert used["late",].cost > 0
    moved = ledger.month(["category", "team"], 202502)
    assert ledger.imbalance() == 0
    whole = ledger.group([], START, FEBRUARY + 5 * HOUR)[()].cost
    assert sum(one.cost for one in (*bill.values(), *moved.values())) == whole


def test_the_database_refuses_to_book_in_a_closed_month(ledger: Ledger) -> None:
    filled(ledger)
    ledger.settle_all(FEBRUARY + 5 * HOUR)
    ledger.close_month(JANUARY, FEBRUARY + 5 * HOUR)
    row = (
        "INSERT INTO settlement SELECT node_id, hour, 7, 999, booked, cost, list_cost, unpriced, clamped, "
        "rows, digest, reason, settled_at FROM settlement WHERE booked = 202501 AND node_id = 1"
    )
    with pytest.raises(DBAPIError, match="month is closed"), ledger.database.changing() as connection:
        connection.exec_driver_sql(row)


def test_the_file_answers_as_the_ledger_does(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "BATCH", 7)  # many row groups, each with dictionaries of its own
    for fact in world(3, hours=4):
        ledger.observe([replace(fact, deleted=START + 4 * HOUR) if isinstance(fact, Node) else fact])
    ledger.settle_all(FEBRUARY + 5 * HOUR)
    ledger.close_month(JANUARY, FEBRUARY + 5 * HOUR)
    found = parquet.export(ledger.database, JANUARY, tmp_path)
    assert found.path == tmp_path / "month=2025-01" / "charges.parquet"
    for by in (["team"], ["instance_type", "category"], ["namespace", "model", "capacity_type"]):
        assert parquet.group(tmp_path, by, JANUARY) == ledger.month(by, JANUARY)
    by_job = ledger.group(["job"], START, FEBRUARY)
    assert parquet.group(tmp_path, ["job"], JANUARY) == by_job
    file = pq.ParquetFile(found.path)
    assert file.metadata.num_rows == found.rows
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    with pytest.raises(LedgerError, match="no column colour"):
        parquet.group(tmp_path, ["colour"], JANUARY)
    with pytest.raises(LedgerError, match="export the month first"):
        parquet.group(tmp_path, ["team"], 202502)


def test_a_month_that_reads_differently_than_it_was_exported_is_refused(
    ledger: Ledger, tmp_path: Path
) -> None:
    filled(ledger)
    with pytest.raises(LedgerRefused, match="not closed"):
        parquet.export(ledger.database, JANUARY, tmp_path)
    ledger.settle_all(FEBRUARY + 5 * HOUR)
    ledger.close_month(JANUARY, FEBRUARY + 5 * HOUR)
    found = parquet.export(ledger.database, JANUARY, tmp_path)
    before = found.path.read_bytes()
    with ledger.database.changing() as connection:
        connection.exec_driver_sql("UPDATE node SET name = 'other'")
    with pytest.raises(LedgerRefused, match="Closed months never change"):
        parquet.export(ledger.database, JANUARY, tmp_path)
    assert found.path.read_bytes() == before


def test_a_node_that_is_heard_of_after_its_month_is_booked_in_the_current_one(
    ledger: Ledger, book: Book
) -> None:
    filled(ledger)
    ledger.settle_all(FEBRUARY + 5 * HOUR)
    ledger.close_month(JANUARY, FEBRUARY + 5 * HOUR)
    unknown = replace(node("c", created=END), deleted=FEBRUARY)
    ledger.observe([unknown])
    ledger.settle_all(FEBRUARY + 8 * HOUR)
    assert ledger.group(["node"], END, FEBRUARY)["c",].cost > 0
    assert ledger.month([], 202502)[()].cost > ledger.group(["node"], END, FEBRUARY)["c",].cost
    assert ledger.imbalance() == 0
