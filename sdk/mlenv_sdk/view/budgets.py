"""Budgets as a table: down to the cent, and what is unknown is said to be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from mlenv_sdk.view.costs import CENT, dollars

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from mlenv_sdk.budgets import Budget

_WORDS: Final = ("BUDGET", "TEAM", "USE CASE", "MONTH")
_NUMBERS: Final = ("AMOUNT", "SPENT", "PERCENT", "FORECAST")


def budgets(of: Sequence[Budget]) -> RenderableType:
    """A line for each, and why something is not known."""
    if not of:
        return Text("There are no budgets: the platform team makes them (kubectl explain budget).")
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    for column in _WORDS:
        table.add_column(column, overflow="fold")
    for column in _NUMBERS:
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for one in of:
        table.add_row(*(Text(cell) for cell in _row(one)), style="bold" if one.exceeded == "True" else "")
    notes = [f"{one.name}: {one.message}" for one in of if one.message]
    return Group(table, *([Text()] if notes else []), *(Text(note, "dim") for note in notes))


def _row(one: Budget) -> tuple[str, ...]:
    percent = "unknown" if one.percent is None else f"{one.percent} %"
    words = (one.name, one.team or "(any)", one.use_case or "(any)", one.month or "-")
    return (*words, _money(one.amount), _money(one.spent), percent, _money(one.forecast), _verdict(one))


def _verdict(one: Budget) -> str:
    if one.exceeded == "True":
        return "spent"
    return "will be spent" if one.forecast_exceeded == "True" else ""


def _money(nanos: int | None) -> str:
    return "unknown" if nanos is None else dollars(nanos // CENT, CENT)
