"""Operators that die at a statement of their ledger, and whoever comes after them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import event

from mlenv_operator.ledger.ledger import open_ledger
from mlenv_operator.ledger.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlenv_operator.cost.facts import Micros
    from mlenv_operator.ledger.exports import Marks
    from mlenv_operator.ledger.ledger import Ledger
    from mlenv_operator.ledger.prices import PriceSource

HOOKS = ("before_cursor_execute", "after_cursor_execute", "commit")


class Died(Exception):  # noqa: N818
    """The process ended here."""


class Deaths:
    """Dies at the n-th time that something happens: a statement before and after it, a commit before it."""

    def __init__(self, ledger: Ledger) -> None:
        self.left = -1
        for hook in HOOKS:
            event.listen(ledger.database.writing, hook, self._happens)

    def _happens(self, _: object, __: object = None, statement: str = "", *___: object) -> None:
        # A process that dies while it begins leaves no lock behind; this one, still alive, would.
        self.left -= not statement.startswith("BEGIN")
        if self.left == 0:
            raise Died


class Operators:
    """One ledger, and one operator after another that keeps it. What counters showed may never be less."""

    def __init__(self, dsn: str, prices: PriceSource, marks: Marks, *, go_on: int = 1) -> None:
        """`go_on`: only after so many deaths another begins; what dies before tries again, as it was."""
        self.shown: dict[tuple[str, str], tuple[int, int, int]] = {}
        self.deaths = 0
        self._dsn, self._prices, self._marks = dsn, prices, marks
        self._go_on = go_on
        self._term = 0
        self._start()

    def _start(self) -> None:
        self._term += 1
        self.ledger = open_ledger(self._dsn, self._prices)
        self.ledger.begin(Writer(self._term, f"operator-{self._term}"))
        self._moments = Deaths(self.ledger)

    def end(self) -> None:
        """The process is gone."""
        self._moments.left = -1
        self.ledger.database.close()

    def do(self, step: Callable[[Ledger], object], dies_at: int = -1) -> bool:
        """Take a step; one that dies at that moment is followed by the next operator. Whether it was done."""
        self._moments.left = dies_at
        try:
            step(self.ledger)
        except Died:
            self.deaths += 1
            if self.deaths % self._go_on == 0:
                self.end()
                self._start()
            return False
        finally:
            self._moments.left = -1
        return True

    def show(self, now: Micros, dies_at: int = -1) -> None:
        """Publish: every series that was ever shown is there, and shows no less."""
        seen: list[dict[tuple[str, str], tuple[int, int, int]]] = []

        def publish(ledger: Ledger) -> None:
            families = ledger.publish(self._marks, now).families.items()
            seen.append(
                {
                    (family, str(one.labels)): (one.gpu_micros, one.cost, one.list_cost)
                    for family, series in families
                    for one in series
                }
            )

        if self.do(publish, dies_at):
            (after,) = seen
            for series, before in self.shown.items():
                assert all(old <= new for old, new in zip(before, after[series], strict=True)), series
            self.shown = after
