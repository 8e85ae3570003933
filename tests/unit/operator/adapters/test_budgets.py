"""Budgets over the life of an operator: what is written, how often, and what is said once."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from mlenv_api import names
from mlenv_operator.adapters.budgets import LOOK_S, Budgets
from mlenv_operator.adapters.metrics import Metrics
from mlenv_operator.adapters.recorder import Recorder
from mlenv_operator.core.budgets import ANY, Figure, read_budget
from mlenv_operator.cost.budgets import MonthToDate, Spent
from mlenv_operator.cost.facts import DOLLAR, HOUR
from mlenv_operator.cost.moments import micros
from mlenv_operator.kube import errors
from mlenv_operator.kube.resources import BUDGETS
from mlenv_operator.ledger.accountant import Figures
from mlenv_operator.ledger.exports import Exposition
from mlenv_operator.runtime.clock import FakeClock
from mlenv_operator.runtime.reflector import Change, ChangeType, ObjectKey

from .api import MemoryApi

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DAY = 24 * HOUR


class Shell:
    """Budgets over an API server in memory, whose watch tells soon, and a ledger that says what it must."""

    def __init__(self, *, ledger: bool = True) -> None:
        self.api, self.clock = MemoryApi(), FakeClock()
        self.ledger = Figures() if ledger else None
        self.tasks: list[asyncio.Task[None]] = []

    def lead(self) -> None:
        """Another operator takes over: it knows what the API server has, and nothing else."""
        for task in self.tasks:
            task.cancel()
        self.metrics = Metrics()
        recorder = Recorder(self.api, self.clock, "operator-0")  # type: ignore[arg-type]
        about = (self.api, self.clock, random.Random(1), recorder, self.ledger)
        self.budgets = Budgets(*about, metrics=self.metrics)  # type: ignore[arg-type]
        self.watch()
        self.tasks.append(asyncio.create_task(self.budgets.run()))

    def apply(self, amount: str = "1000", *, generation: int = 1) -> None:
        before = self.api.objects.get(("budgets", "", "ads"), {})
        metadata = {"name": "ads", "uid": "u", "generation": generation}
        raw = {"metadata": metadata, "spec": {"team": "ads", "amountUSD": amount}}
        self.api.add(BUDGETS, {**raw, "status": before.get("status", {})})
        self.watch()

    def watch(self) -> None:
        for (plural, _, name), raw in self.api.objects.items():
            if plural == "budgets":
                change = Change(ChangeType.MODIFIED, ObjectKey("", name), None, read_budget(raw))
                self.budgets.changed(change)

    def spend(self, dollars: float, month: str = "2030-01") -> None:
        """What the ledger publishes now."""
        now = micros(self.clock.now())
        spent = {("ads", None): Spent(round(dollars * DOLLAR))}
        told = MonthToDate(month, now, now + 10 * DAY, 7 * DAY, spent)
        assert self.ledger is not None
        self.ledger.exposition = Exposition({}, 0, 1, now, month=told)

    async def pass_(self, seconds: float) -> None:
        for _ in range(round(seconds / LOOK_S)):
            await self.clock.advance(LOOK_S)
            self.watch()

    @property
    def status(self) -> dict[str, Any]:
        return self.api.objects["budgets", "", "ads"].get("status", {})

    @property
    def exceeded(self) -> str:
        return next(one["status"] for one in self.status["conditions"] if one["type"] == "Exceeded")

    @property
    def writes(self) -> int:
        return sum(verb == "status" for verb, _, _ in self.api.writes)

    @property
    def events(self) -> list[str]:
        found = [raw for (plural, _, _), raw in self.api.objects.items() if plural == "events"]
        return [raw["note"] for raw in found]


@pytest.fixture
async def shell() -> AsyncIterator[Shell]:
    made = Shell()
    made.lead()
    yield made
    await _end(made)


async def _end(made: Shell) -> None:
    for task in made.tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_status_is_written_at_most_once_a_minute_and_only_when_it_says_something_new(
    shell: Shell,
) -> None:
    shell.apply()
    shell.spend(100)
    await shell.pass_(10)
    assert (shell.writes, shell.status["spentUSD"], shell.exceeded) == (1, "100", "False")
    for dollars in (101, 102, 103):
        shell.spend(dollars)
        await shell.pass_(10)
    assert (shell.writes, shell.status["spentUSD"]) == (1, "100")
    await shell.pass_(40)
    assert (shell.writes, shell.status["spentUSD"]) == (2, "103")
    for _ in range(30):
        shell.spend(103)
        await shell.pass_(10)
    assert shell.writes == 2


async def test_an_edit_is_answered_at_once(shell: Shell) -> None:
    shell.apply()
    shell.spend(100)
    await shell.pass_(10)
    shell.apply("100", generation=2)
    await shell.pass_(10)
    assert (shell.status["observedGeneration"], shell.exceeded) == (2, "True")
    assert shell.events == ["team ads spent 100 of 100 USD in 2030-01: 100 % is reached. Nothing is stopped"]


async def test_a_crossing_is_said_once_whoever_leads(shell: Shell) -> None:
    shell.apply()
    shell.spend(500)
    await shell.pass_(60)
    assert [note.split(": ")[1][:4] for note in shell.events] == ["50 %"]
    for dollars in (490, 500, 600):
        shell.lead()
        shell.spend(dollars)
        await shell.pass_(70)
    assert len(shell.events) == 1
    assert shell.status["crossed"] == [50]
    shell.spend(1000)
    await shell.pass_(70)
    assert len(shell.events) == 2
    shell.spend(510, month="2030-02")
    await shell.pass_(70)
    assert len(shell.events) == 3
    (event, *_) = [raw for (plural, _, _), raw in shell.api.objects.items() if plural == "events"]
    assert event["metadata"]["namespace"] == "default"
    assert event["regarding"] == {
        "apiVersion": names.API_VERSION,
        "kind": names.BUDGET,
        "name": "ads",
        "uid": "u",
    }


async def test_what_could_not_be_written_is_tried_again_and_said_once(shell: Shell) -> None:
    failures: list[Exception] = [errors.LeaseLost("not ours"), errors.Conflict("changed", code=409)]
    shell.api.fails = lambda *_: failures.pop() if failures else None
    shell.apply()
    shell.spend(600)
    await shell.pass_(30)
    assert (shell.status["spentUSD"], len(shell.events), failures) == ("600", 1, [])


async def test_a_new_leaders_ledger_has_its_first_moments(shell: Shell) -> None:
    shell.apply()
    await shell.pass_(600)
    assert shell.writes == 0
    await shell.pass_(400)
    assert (shell.writes, shell.exceeded) == (1, "Unknown")
    assert "has not been read yet" in shell.status["conditions"][0]["message"]


async def test_a_ledger_that_falls_silent_is_told(shell: Shell) -> None:
    shell.apply()
    shell.spend(600)
    await shell.pass_(60)
    assert shell.exceeded == "False"
    await shell.pass_(960)
    assert (shell.exceeded, shell.status["spentUSD"]) == ("Unknown", "600")
    assert shell.ledger is not None
    shell.ledger.exposition, shell.ledger.condition = None, "it is older than what was shown"
    await shell.pass_(70)
    assert "spentUSD" not in shell.status
    assert "shows nothing: it is older than what was shown" in shell.status["conditions"][0]["message"]
    assert shell.status["crossed"] == [50]


async def test_without_a_ledger_nobody_can_tell() -> None:
    shell = Shell(ledger=False)
    shell.lead()
    shell.apply()
    await shell.pass_(10)
    assert (shell.writes, shell.exceeded) == (1, "Unknown")
    assert "keeps no ledger" in shell.status["conditions"][0]["message"]
    await _end(shell)


async def test_a_budget_that_is_gone_or_another_is_let_be(shell: Shell) -> None:
    shell.apply()
    shell.spend(600)
    del shell.api.objects["budgets", "", "ads"]
    await shell.pass_(30)
    assert shell.writes == 0
    shell.api.add(BUDGETS, {"metadata": {"name": "ads", "uid": "other", "generation": 1}, "spec": {}})
    await shell.clock.advance(30)
    assert shell.writes == 0
    shell.budgets.changed(Change(ChangeType.DELETED, ObjectKey("", "ads"), None, None))
    shell.metrics.refresh()
    assert shell.budgets.figures == ()


async def test_metrics_have_what_is_known_before_each_scrape(shell: Shell) -> None:
    shell.apply()
    shell.metrics.refresh()
    assert shell.budgets.figures == (Figure("ads", ANY, 1000 * DOLLAR, None, None),)
    shell.spend(600)
    shell.metrics.refresh()
    assert shell.budgets.figures == (Figure("ads", ANY, 1000 * DOLLAR, 600 * DOLLAR, 600 * DOLLAR),)
    assert shell.ledger is not None
    assert shell.ledger.exposition is not None
    shell.ledger.exposition = replace(shell.ledger.exposition, month=None)
    shell.metrics.refresh()
    assert shell.budgets.figures[0].spent is None
