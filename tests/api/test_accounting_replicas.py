"""A ledger in PostgreSQL and two operators: who leads is killed, and the cost in a job's status goes on.

As in test_accounting there is no kubelet, and a pod costs its seconds times ten million nanodollars.
"""

from __future__ import annotations

import itertools
import json
import subprocess
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import postgres
import pytest

from mlenv_local import needs
from mlenv_operator.cost.facts import DOLLAR, SECOND

from .test_accounting import PER_SECOND, Stage, price_book, settled, stage  # noqa: F401  (a fixture)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.api, pytest.mark.timeout(3600)]  # the first one may build the server
JOB = "long"


@pytest.fixture
def dsn() -> Iterator[str]:
    if needs.postgresql() is None:
        pytest.skip(f"PostgreSQL is not installed: the Debian package {needs.POSTGRESQL_PACKAGE}")
    with postgres.server() as server:
        yield server.database()


@contextmanager
def watched(of: Stage) -> Iterator[Callable[[], list[tuple[str, Decimal]]]]:
    """Every cost that the job's status tells from now on, in the order in which it does: (asOf, amount)."""
    log = of.folder / "costs.txt"
    show = 'jsonpath={.status.cost.asOf} {.status.cost.amount}{"\\n"}'
    what = ("get", "trainingjob", JOB, "-n", of.team, "--watch", "-o", show)
    with log.open("wb") as out:
        process = subprocess.Popen(
            [of.kubectl.program, "--kubeconfig", str(of.kubectl.kubeconfig), *what], stdout=out
        )

    def seen() -> list[tuple[str, Decimal]]:
        whole, _, _ = log.read_text().rpartition("\n")
        words = [line.split() for line in whole.splitlines()]
        return [(one[0], Decimal(one[1])) for one in words if len(one) == 2]

    try:
        yield seen
    finally:
        process.terminate()
        process.wait()


def writer(of: Stage) -> Callable[[], None]:
    """Has the status written, which takes the cost along: by an edit that means nothing yet."""
    numbers = itertools.count(100_000)

    def edit() -> None:
        body = json.dumps({"spec": {"ttlSecondsAfterFinished": next(numbers)}})
        of.kubectl.ok("patch", "trainingjob", JOB, "-n", of.team, "--type=merge", "-p", body)

    return edit


def test_the_cost_in_a_status_goes_on_under_the_next_leader_and_ends_as_the_ledgers(
    stage: Stage,  # noqa: F811
    dsn: str,
) -> None:
    kubectl, node = stage.kubectl, f"{stage.team}-0"
    kubectl.ok("create", "-f", "-", stdin=price_book(stage.team))
    stage.add_node(node)
    stage.start_operator(dsn)
    uid = stage.submit(JOB)["metadata"]["uid"]
    stage.start_operator(dsn)
    began = stage.run_pod(JOB, node)
    edit = writer(stage)
    with watched(stage) as costs:

        def more(than: Decimal) -> Decimal | None:
            edit()
            told = costs()
            return told[-1][1] if told and told[-1][1] > than else None

        first = stage.until(lambda: more(Decimal(0)), "a cost in the status")
        stage.kill_operator(0)
        second = stage.until(lambda: more(first), "a higher one by the next leader")
        # The one after that finds the pod at its end, which nobody or the one before has stored.
        stage.start_operator(dsn)
        held = int((datetime.now(UTC) - began).total_seconds()) + 1
        stage.end_pod(JOB, began, held)
        stage.kill_operator(1)
        stage.until(lambda: stage.status(JOB).get("cost", {}).get("final"), "all that it held is counted")
        amount = Decimal(stage.status(JOB)["cost"]["amount"])
        stage.until(lambda: costs()[-1][1] == amount, "the watch tells it too")
        told = costs()
    stage.kill_operator(2)

    for one in zip(*told, strict=True):
        assert list(one) == sorted(one), "neither the moment nor the amount ever goes back"
    assert 0 < first < second <= amount == Decimal(held * PER_SECOND) / DOLLAR
    with settled(dsn, kubectl.json("get", "pricebook", stage.team)) as ledger:
        lines = ledger.explain(uid)
        assert sum(line.amounts.cost for line in lines) == amount * DOLLAR
        assert sum(line.amounts.held for line in lines) == held * SECOND
        assert sum(one.committed.cost for one in ledger.counters("jobs")) == amount * DOLLAR
        assert ledger.imbalance() == 0
    kubectl.ok("delete", "trainingjob", "-n", stage.team, JOB, "--wait=false")
    kubectl.ok("delete", "node", node)
