"""Counters never go back, whatever happens to the ledger; backups and their way back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from ledgers import START, Book, attribution, node, pod, world
from ledgers import money as sums

from mlenv_operator.cost.facts import DOLLAR, HOUR, SECOND, Attributed
from mlenv_operator.ledger import __main__ as commands
from mlenv_operator.ledger import backup, exports
from mlenv_operator.ledger.errors import BelowMark, LedgerError, LedgerRefused
from mlenv_operator.ledger.exports import BothMarks, FileMarks, Mark, MemoryMarks
from mlenv_operator.ledger.ledger import open_ledger
from mlenv_operator.ledger.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlenv_operator.ledger.exports import Exposition
    from mlenv_operator.ledger.ledger import Ledger


@pytest.fixture
def marks(tmp_path: Path) -> FileMarks:
    return FileMarks(tmp_path / "counters.json")


def shown(exposition: Exposition) -> dict[tuple[str, str], tuple[int, int, int]]:
    return {
        (family, str(one.labels)): (one.cost, one.list_cost, one.gpu_micros)
        for family, series in exposition.families.items()
        for one in series
    }


def test_counters_grow_within_the_hour_and_never_go_back(ledger: Ledger, marks: FileMarks) -> None:
    facts, before = world(2), dict[tuple[str, str], tuple[int, int, int]]()
    for step in range(24):
        ledger.observe(facts[step::24])
        now = START + step * 997 * SECOND
        ledger.settle_all(now)
        after = shown(ledger.publish(marks, now))
        for series, values in before.items():
            assert all(old <= new for old, new in zip(values, after[series], strict=True))
        before = after
    assert before


def test_a_correction_lowers_the_ledger_and_not_the_counter(ledger: Ledger, marks: FileMarks) -> None:
    one = node("a")
    ledger.observe([one, held := pod("p", "j", one), Attributed("uid-j", 0, attribution("j"))])
    ledger.settle_all(START + 3 * HOUR)
    before = shown(ledger.publish(marks, START + 3 * HOUR))
    ledger.observe([replace(held, finished=START + HOUR, released=START + HOUR)])
    ledger.settle_all(START + 3 * HOUR)
    after = shown(ledger.publish(marks, START + 3 * HOUR))
    pods = [key for key in before if key[0] == "jobs"]
    assert pods
    assert [after[key] for key in pods] == [before[key] for key in pods]
    assert sum(one.committed.cost for one in ledger.counters("jobs")) < sum(before[key][0] for key in pods)


def test_what_an_open_hour_shows_is_never_more_than_what_it_closes_with(
    ledger: Ledger, marks: FileMarks
) -> None:
    one = node("a")
    ledger.observe([one, pod("p", "j", one, gpus=3), Attributed("uid-j", 0, attribution("j"))])
    open_ = shown(ledger.publish(marks, START + HOUR - 1))
    ledger.settle_all(START + HOUR + ledger.rules.grace)
    closed = {
        (family, str(counter.labels)): counter.committed.cost
        for family in ("jobs", "models", "nodes")
        for counter in ledger.counters(family)
    }
    for key, (cost, _, _) in open_.items():
        assert 0 < cost <= closed[key]


def test_a_job_costs_what_is_closed_and_what_is_open(ledger: Ledger) -> None:
    one = node("a")
    ledger.observe([one, pod("p", "j", one, gpus=8), Attributed("uid-j", 0, attribution("j"))])
    ledger.settle_all(START + 3 * HOUR)
    now = START + 2 * HOUR + 1800 * SECOND
    found = ledger.job("uid-j", now)
    closed = ledger.group(["job"], START, START + 2 * HOUR)["j",].cost
    assert found.cost > closed
    assert sum(amounts.cost for amounts in found.by_category.values()) == found.cost
    hourly = 55 * DOLLAR + 7
    assert found.rate == pytest.approx(hourly * 2 // 3, rel=1e-6)  # the dearer part of the hour
    assert ledger.job("nobody", now).cost == 0


def test_an_older_ledger_shows_nothing(new_dsn: Callable[[], str], marks: FileMarks) -> None:
    new, old = open_ledger(new_dsn(), Book()), open_ledger(new_dsn(), Book())
    for one in (new, old):
        one.begin(Writer(1, "a"))
        one.observe(world(2))
    new.settle_all(START + 9 * HOUR)
    new.publish(marks, START + 9 * HOUR)
    old.settle_all(START + 3 * HOUR)
    with pytest.raises(BelowMark, match="knows of publication 0 of its counters, and number 1 was shown"):
        old.publish(marks, START + 3 * HOUR)
    exports.reset(old.database, marks, START + 4 * HOUR)
    first = old.publish(marks, START + 3 * HOUR)
    assert first.counting_since == START + 4 * HOUR
    assert sum(cost for cost, _, _ in shown(first).values()) < DOLLAR * 500
    old.settle_all(START + 9 * HOUR)
    grown = shown(old.publish(marks, START + 9 * HOUR))
    assert all(values >= shown(first)[key] for key, values in grown.items() if key in shown(first))
    with pytest.raises(BelowMark):  # and the other one is the older one now
        new.publish(marks, START + 9 * HOUR)


def test_dying_between_the_ledger_and_the_second_place_stops_nothing(
    ledger: Ledger, marks: FileMarks
) -> None:
    class Full(FileMarks):
        def write(self, mark: Mark) -> None:
            raise LedgerError("no room")

    ledger.observe(world(1))
    ledger.publish(marks, START + HOUR)
    for _ in range(3):
        with pytest.raises(LedgerError, match="no room"):
            ledger.publish(Full(marks._path), START + 2 * HOUR)
    # Nobody heard of number 2: however often it was tried, it is still the next.
    assert ledger.publish(marks, START + 2 * HOUR).number == 2
    assert ledger.publish(marks, START + 3 * HOUR).number == 3


def test_of_two_second_places_the_newer_word_counts(ledger: Ledger, marks: FileMarks) -> None:
    cluster = MemoryMarks()
    ledger.observe(world(1))
    both = BothMarks(cluster, marks)
    ledger.publish(both, START + HOUR)
    old = marks.read()
    ledger.publish(both, START + 2 * HOUR)
    assert old is not None
    marks.write(old)  # the volume is an older one, as after a restoration of both
    assert both.read() == cluster.read()
    cluster.write(replace(old, number=9, word="of another ledger"))
    with pytest.raises(BelowMark):
        ledger.publish(both, START + 3 * HOUR)


def test_a_reset_also_holds_against_a_second_place_that_was_not_at_hand(
    ledger: Ledger, marks: FileMarks
) -> None:
    cluster = MemoryMarks()
    cluster.write(Mark(9, "of a ledger that is lost", {"jobs": 5}))
    ledger.observe(world(1))
    with pytest.raises(BelowMark):
        ledger.publish(BothMarks(cluster, marks), START + HOUR)
    exports.reset(ledger.database, marks, START + HOUR)
    assert ledger.publish(BothMarks(cluster, marks), START + HOUR).number == 10
    cluster.write(Mark(11, "of yet another", {"jobs": 5}))
    with pytest.raises(BelowMark):
        ledger.publish(BothMarks(cluster, marks), START + HOUR)


def test_a_mark_that_cannot_be_read_is_an_error_and_no_beginning(ledger: Ledger, marks: FileMarks) -> None:
    marks._path.write_text("{")
    with pytest.raises(LedgerError, match="cannot be read"):
        ledger.publish(marks, START)


# Backups: SQLite's are made here; PostgreSQL has tools of its own.


@pytest.fixture
def file(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/money/ledger.db"


@pytest.fixture
def money(file: str, tmp_path: Path) -> Ledger:
    (tmp_path / "money").mkdir()
    one = open_ledger(file, Book())
    one.begin(Writer(1, "a"))
    one.observe(world(2))
    one.settle_all(START + 3 * HOUR)
    return one


def run(file: str, *words: str) -> int:
    return commands.main(["--dsn", file, *words])


def test_a_backup_comes_back(
    money: Ledger, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy.db"
    assert run(file, "backup", str(copy)) == 0
    assert run(file, "backup", str(copy)) == 1
    assert "not written over" in capsys.readouterr().err
    paid = money.counters("jobs")
    money.settle_all(START + 9 * HOUR)
    money.database.close()
    assert run(file, "restore", str(copy)) == 1
    assert "say --replace" in capsys.readouterr().err
    assert run(file, "restore", str(copy), "--replace") == 0
    back = open_ledger(file, Book())
    assert back.counters("jobs") == paid
    assert run(file, "check") == 0
    assert "All sums are equal. Every hour has a price." in capsys.readouterr().out


def test_a_backup_older_than_what_was_shown_is_refused(
    money: Ledger, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, marks = tmp_path / "copy.db", FileMarks(tmp_path / "money" / "counters.json")
    assert run(file, "backup", str(copy)) == 0
    money.publish(marks, START + 3 * HOUR)
    money.database.close()
    assert run(file, "restore", str(copy), "--replace") == 1
    assert "counters would go back" in capsys.readouterr().err
    assert run(file, "restore", str(copy), "--replace", "--reset-counters") == 0
    back = open_ledger(file, Book())
    back.begin(Writer(2, "b"))
    assert back.publish(marks, START + 4 * HOUR).number > 1


def test_what_is_no_ledger_is_not_restored(
    money: Ledger, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.db").touch()
    (tmp_path / "text.db").write_text("hello " * 1000)
    for name, words in (
        ("empty.db", "is no ledger"),
        ("text.db", "not a database"),
        ("none.db", "no backup"),
    ):
        assert run(file, "restore", str(tmp_path / name), "--replace") == 1
        assert words in capsys.readouterr().err


def test_months_by_command(
    money: Ledger, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(file, "close-month", "2025-01") == 1
    assert "is open" in capsys.readouterr().err
    assert run(file, "migrate") == 0
    assert run(file, "export", "2025-01") == 1
    assert "is not closed" in capsys.readouterr().err
    assert commands.main(["--dsn", "", "check"]) == 2


def test_a_month_is_charged_anew_when_somebody_says_so_and_not_before(
    money: Ledger, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dearer = Book({name: 2 * price for name, price in Book().prices.items()})
    now, before = START + 3 * HOUR, sums(money)
    operator = open_ledger(file, dearer)
    operator.begin(Writer(2, "b"))
    assert operator.reprice(now) == 0
    operator.settle_all(now)
    assert sums(operator) == before
    assert run(file, "reprice", "2025-02") == 0
    assert capsys.readouterr().out.startswith("0 closed node-hours of 2025-02 are looked at again")
    assert run(file, "reprice", "2025-01") == 0
    assert not capsys.readouterr().out.startswith("0 closed")
    assert operator.settle_all(now).corrected > 0
    anew = open_ledger(f"sqlite:///{tmp_path}/anew.db", dearer)
    anew.begin(Writer(1, "a"))
    anew.observe(world(2))
    anew.settle_all(now)
    assert sums(operator) == sums(anew) != before
    assert operator.imbalance() == 0
    # Said again, it finds nothing to correct.
    assert run(file, "reprice", "2025-01") == 0
    assert operator.settle_all(now).corrected == 0


def test_postgresql_has_tools_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dsn = "postgresql://nobody@localhost/none"
    with pytest.raises(LedgerRefused, match="pg_dump"):
        backup.restore(dsn, tmp_path / "x", FileMarks(tmp_path / "m"), 0)
