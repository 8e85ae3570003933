"""Whatever statement the operator dies at, the next one finishes the undisturbed ledger."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import ledgers
import pytest
from dying import Deaths, Died
from ledgers import START, Book, content, money, parts, world

from mlenv_operator.cost.facts import HOUR
from mlenv_operator.ledger.exports import FileMarks
from mlenv_operator.ledger.ledger import Ledger, open_ledger
from mlenv_operator.ledger.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

Step = "Callable[[Ledger], object]"
HERE, SUPPORT = Path(__file__).parent, Path(ledgers.__file__).parent


def steps(marks: Path) -> list[Callable[[Ledger], object]]:
    facts = parts(world(5, nodes=2, jobs=2, hours=2))
    middle = len(facts) // 2
    now = START + 20 * HOUR
    return [
        lambda ledger: ledger.observe(facts[:middle]),
        *[lambda ledger: ledger.settle(START + 3 * HOUR)] * 4,
        lambda ledger: ledger.observe(facts[middle:]),
        *[lambda ledger: ledger.settle(now)] * 8,
        lambda ledger: ledger.publish(FileMarks(marks), now),
        lambda ledger: ledger.observe(facts),
        lambda ledger: ledger.settle_all(now),
    ]


def restarted(dsn: str) -> Ledger:
    ledger = open_ledger(dsn, Book())
    ledger.begin(Writer(1, "operator"))
    return ledger


def test_dying_at_any_statement_leaves_the_undisturbed_ledger(
    new_dsn: Callable[[], str], tmp_path: Path
) -> None:
    undisturbed = restarted(new_dsn())
    for step in steps(tmp_path / "one"):
        step(undisturbed)
    dsn, died = new_dsn(), 0
    for step in steps(tmp_path / "two"):
        died += survive(dsn, step)
    assert died > 150
    found = restarted(dsn)
    # A publication has a word of its own, and says how often it was begun.
    leave = frozenset({"meta"})
    assert content(found, leave=leave) == content(undisturbed, leave=leave)
    assert found.imbalance() == 0
    found.database.close()
    undisturbed.database.close()


def survive(dsn: str, step: Callable[[Ledger], object]) -> int:
    """Do it again and again, dying one moment later each time, until it was done; how often it died."""
    ledger = restarted(dsn)
    deaths = Deaths(ledger)
    try:
        for moment in range(1, 10_000):
            deaths.left = moment
            try:
                step(ledger)
            except Died:
                continue  # a Ledger remembers nothing that is not in the database
            deaths.left = -1
            return moment - 1
    finally:
        ledger.database.close()
    raise AssertionError("it never ended")


PROGRAM = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from test_crash import restarted, steps
ledger = restarted(sys.argv[1])
for number, step in enumerate(steps(Path(sys.argv[2]))):
    print(number, flush=True)
    step(ledger)
print("done", flush=True)
"""


def test_processes_that_are_killed_leave_the_money_of_an_undisturbed_one(
    new_dsn: Callable[[], str], tmp_path: Path
) -> None:
    undisturbed, dsn = restarted(new_dsn()), new_dsn()
    for step in steps(tmp_path / "one"):
        step(undisturbed)
    argv = [sys.executable, "-c", PROGRAM, dsn, str(tmp_path / "two"), str(HERE), str(SUPPORT)]
    for last_word in ("0", "4", "7", "done"):
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert last_word in (line.strip() for line in process.stdout)
            process.kill()
    found = restarted(dsn)
    # Each life begins with the first step, so corrections come in another order: their sums are the same.
    assert money(found) == money(undisturbed)
    assert found.imbalance() == 0
    found.database.close()
    undisturbed.database.close()


def test_what_was_committed_is_there_although_nobody_was_told(
    new_dsn: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = new_dsn()
    ledger, facts = restarted(dsn), world(5, nodes=2, jobs=2, hours=2)

    def never_told(result: Any) -> None:
        raise Died

    def dying(step: Callable[[], object]) -> None:
        with pytest.raises(Died):
            never_told(step())
        ledger.database.close()

    dying(lambda: ledger.observe(facts))
    dying(lambda: ledger.settle(START + 20 * HOUR))
    ledger.observe(facts)
    ledger.settle_all(START + 20 * HOUR)
    other = restarted(new_dsn())
    other.observe(facts)
    other.settle_all(START + 20 * HOUR)
    assert content(ledger) == content(other)
