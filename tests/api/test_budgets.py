"""Budgets at a real API server: what it rejects, and how the operator answers for each."""

from __future__ import annotations

import asyncio
import random
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from informed import informed
from operator_process import operator_process

from mlenv_api import names
from mlenv_operator.adapters.budgets import Budgets
from mlenv_operator.adapters.metrics import Metrics
from mlenv_operator.adapters.recorder import Recorder
from mlenv_operator.core.budgets import read_budget
from mlenv_operator.cost.budgets import MonthToDate, Spent
from mlenv_operator.cost.facts import DOLLAR, HOUR
from mlenv_operator.cost.moments import micros
from mlenv_operator.kube.client import Client
from mlenv_operator.kube.resources import BUDGETS
from mlenv_operator.kube.transport import connect
from mlenv_operator.ledger.accountant import Figures
from mlenv_operator.ledger.exports import Exposition
from mlenv_operator.runtime.clock import SystemClock
from mlenv_sdk import Client as Sdk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from .conftest import Kubectl

pytestmark = [pytest.mark.api, pytest.mark.timeout(3600)]  # the first one may build the server
Raw = dict[str, Any]
DEADLINE_S = 300.0
DAY = 24 * HOUR


def budget(name: str = "bad", **spec: Any) -> Raw:
    body = {"team": "ads", "amountUSD": "1000"} | spec
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.BUDGET,
        "metadata": {"name": name},
        "spec": {field: value for field, value in body.items() if value is not None},
    }


REJECTED = {
    "of nobody": (budget(team=None), "spec.team: Required value: a budget is of a team, of a use case"),
    "nothing": (budget(amountUSD="0.00"), "spec.amountUSD: Invalid value: an amount is more than 0"),
    "a number": (budget(amountUSD=1000), "spec.amountUSD: Invalid value"),
    "euros": (budget(amountUSD="10 EUR"), "spec.amountUSD in body should match"),
    "a week": (budget(period="Week"), "spec.period: Unsupported value"),
    "no label's value": (budget(team="of ads"), "spec.team in body should match"),
    "no percent": (budget(alertAtPercent=[0]), "spec.alertAtPercent[0] in body should be greater than or"),
    "twice the same": (budget(alertAtPercent=[50, 50]), "spec.alertAtPercent[1]: Duplicate value"),
    "too many": (budget(alertAtPercent=list(range(1, 10))), "spec.alertAtPercent: Too many"),
}


@pytest.mark.parametrize("mistake", REJECTED)
def test_a_mistake_is_rejected_with_a_sentence(kubectl: Kubectl, mistake: str) -> None:
    body, sentence = REJECTED[mistake]
    assert sentence in kubectl.error("create", "-f", "-", stdin=body)


@pytest.fixture
def name(kubectl: Kubectl) -> Iterator[str]:
    made = f"budget-{secrets.token_hex(4)}"
    yield made
    kubectl.run("delete", names.BUDGET, made, "--wait=false")


def test_defaults_are_those_of_a_month(kubectl: Kubectl, name: str) -> None:
    kubectl.ok("create", "-f", "-", stdin=budget(name))
    spec = kubectl.json("get", "bgt", name)["spec"]
    assert (spec["period"], spec["alertAtPercent"]) == ("Month", [50, 80, 100])


@dataclass
class Stage:
    """The operator's part that answers for Budgets, as app.py puts it together, and a ledger to play with."""

    figures: Figures

    def spend(self, dollars: int) -> None:
        now = micros(SystemClock().now())
        spent = {("ads", None): Spent(dollars * DOLLAR, 70 * DOLLAR)}
        told = MonthToDate("2026-11", now, now + 10 * DAY, 7 * DAY, spent)
        self.figures.exposition = Exposition({}, 0, 1, now, month=told)


@pytest.fixture
async def stage(kubectl: Kubectl) -> AsyncIterator[Stage]:
    async with connect(user_agent="mlenv-operator/test", kubeconfig=str(kubectl.kubeconfig)) as transport:
        client, made = Client(transport, lambda: 30.0), Stage(Figures())
        clock, rng = SystemClock(), random.Random(1)
        recorder = Recorder(client, clock, "of-a-test")
        budgets = Budgets(client, clock, rng, recorder, made.figures, metrics=Metrics())
        made.spend(0)
        async with informed(client, BUDGETS, read_budget, budgets):
            yield made


async def test_a_budget_from_birth_to_an_edit(kubectl: Kubectl, stage: Stage, name: str) -> None:
    async def run(*words: str, stdin: Raw | None = None) -> str:
        return await asyncio.to_thread(kubectl.ok, *words, stdin=stdin)

    stage.spend(600)
    await run("apply", "--server-side", "-f", "-", stdin=budget(name))
    await run("wait", f"budget/{name}", "--for=condition=Exceeded=False", "--timeout=250s")
    told = await asyncio.to_thread(kubectl.json, "get", "budget", name)
    status = told["status"]
    assert (status["month"], status["spentUSD"], status["forecastUSD"]) == ("2026-11", "600", "700")
    assert (status["percent"], status["crossed"], status["observedGeneration"]) == (60, [50], 1)
    await run("apply", "--server-side", "-f", "-", stdin=budget(name, amountUSD="600"))
    await run("wait", f"budget/{name}", "--for=condition=Exceeded", "--timeout=250s")
    line = (await run("get", "bgt", name, "--no-headers")).split()
    assert line[:7] == [name, "ads", "600", "600", "100", "700", "True"]  # no use case
    events = await _events(kubectl, name, 2)
    assert [(one["reason"], one["type"]) for one in events] == [
        ("BudgetThresholdReached", "Normal"),
        ("BudgetExceeded", "Warning"),
    ]
    with Sdk(kubectl.kubeconfig) as client:
        (found,) = [one for one in await asyncio.to_thread(client.budgets) if one.name == name]
    assert (found.spent, found.exceeded, found.percent) == (600 * 10**9, "True", 100)


async def _events(kubectl: Kubectl, name: str, count: int) -> list[Raw]:
    """What was said of the budget, in order: an event follows the status that it speaks of."""
    selector = f"involvedObject.kind={names.BUDGET},involvedObject.name={name}"
    words = ("get", "events", "-n", "default", "--field-selector", selector)
    async with asyncio.timeout(DEADLINE_S):
        while True:
            found = (await asyncio.to_thread(kubectl.json, *words))["items"]
            if len(found) >= count:
                return sorted(found, key=lambda one: one["eventTime"])
            await asyncio.sleep(0.05)


@pytest.fixture
def operator(kubectl: Kubectl, tmp_path: Path) -> Iterator[Path]:
    """The whole operator, as a process, without a ledger; its log."""
    home, log = f"op-{secrets.token_hex(4)}", tmp_path / "operator.log"
    kubectl.ok("create", "namespace", home)
    with operator_process(kubectl.kubeconfig, home, log):
        yield log
    kubectl.run("delete", "namespace", home, "--wait=false")


def test_an_operator_without_a_ledger_says_that_nobody_watches(
    kubectl: Kubectl, name: str, operator: Path
) -> None:
    kubectl.ok("create", "-f", "-", stdin=budget(name))
    done = kubectl.run("wait", f"budget/{name}", "--for=condition=Exceeded=Unknown", "--timeout=250s")
    assert done.returncode == 0, done.stderr + operator.read_text()
    (exceeded, _) = kubectl.json("get", "budget", name)["status"]["conditions"]
    assert "the operator keeps no ledger" in exceeded["message"]
