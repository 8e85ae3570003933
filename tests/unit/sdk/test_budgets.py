"""Budgets on the screen: money down to the cent, and what is unknown is said to be."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.unit.sdk.conftest import Answer, Server
from tests.unit.sdk.test_cli import mlenv  # noqa: F401  (a fixture)
from tests.unit.sdk.test_costs import BILL, shown, telling

from mlenv_sdk import Client, Forbidden
from mlenv_sdk.view import budgets as view

if TYPE_CHECKING:
    from tests.unit.sdk.test_cli import Mlenv

PATH = "/apis/mlenv.io/v1alpha1/budgets"


def condition(kind: str, status: str, message: str = "m") -> dict[str, Any]:
    return {"type": kind, "status": status, "message": message, "reason": "R"}


def budget(name: str, spec: dict[str, Any], exceeded: str = "False", **status: Any) -> dict[str, Any]:
    said = [condition("Exceeded", exceeded, "nobody can tell"), condition("ForecastExceeded", "True")]
    return {
        "metadata": {"name": name, "uid": f"uid-{name}"},
        "spec": {"amountUSD": "1000", "period": "Month", **spec},
        "status": {"conditions": said, "month": "2026-11", **status} if status else {},
    }


SPENT = {"spentUSD": "412.31", "forecastUSD": "1512.5", "percent": 41, "asOf": "2026-11-21T00:00:05Z"}
BUDGETS = [
    budget("feed", {"useCase": "ctr"}, "True", **{**SPENT, "spentUSD": "1000", "percent": 100}),
    budget("ads", {"team": "ads"}, **SPENT),
    budget("new", {"team": "ads", "useCase": "a[b]"}),
    budget("blind", {"team": "dark"}, "Unknown", observedGeneration=1),
]
TABLE = """\
BUDGET   TEAM    USE CASE   MONTH        AMOUNT       SPENT   PERCENT    FORECAST
ads      ads     (any)      2026-11   $1,000.00     $412.31      41 %   $1,512.50   will be spent
blind    dark    (any)      2026-11   $1,000.00     unknown   unknown     unknown   will be spent
feed     (any)   ctr        2026-11   $1,000.00   $1,000.00     100 %   $1,512.50   spent
new      ads     a[b]       -         $1,000.00     unknown   unknown     unknown

blind: nobody can tell
new: the operator has not looked at it yet
"""


def test_budgets_are_a_table_by_name(client: Client, server: Server) -> None:
    first = Answer({"items": BUDGETS[:2], "metadata": {"continue": "more"}})
    server.answers(first, Answer({"items": BUDGETS[2:]}))
    found = client.budgets()
    assert {request.path for request in server.requests} == {PATH}
    assert shown(view.budgets(found)) == TABLE
    assert (found[0].spent, found[0].forecast) == (412_310_000_000, 1_512_500_000_000)
    assert (found[1].spent, found[1].amount) == (None, 10**12)


def test_the_command_prints_a_table_or_json(mlenv: Mlenv, server: Server) -> None:  # noqa: F811
    server.script = lambda _: Answer({"items": BUDGETS})
    done = mlenv("cost", "budgets")
    assert (done.returncode, done.stdout.splitlines()[1].split()[:2]) == (0, ["ads", "ads"])
    told = json.loads(mlenv("cost", "budgets", "-o", "json").stdout)
    assert (told["kind"], len(told["budgets"])) == ("Budgets", 4)
    assert told["budgets"][0] == {
        "name": "ads",
        "team": "ads",
        "amountUSD": "1000",
        "period": "Month",
        "month": "2026-11",
        **SPENT,
        "conditions": {
            "Exceeded": {"status": "False", "message": "nobody can tell"},
            "ForecastExceeded": {"status": "True", "message": "m"},
        },
    }


def test_a_cluster_without_budgets_says_so(mlenv: Mlenv, server: Server) -> None:  # noqa: F811
    server.script = lambda _: Answer({"items": []})
    assert "There are no budgets" in mlenv("cost", "budgets").stdout


def test_a_job_of_that_name_is_asked_for_by_its_uid(mlenv: Mlenv, server: Server) -> None:  # noqa: F811
    server.script = telling(BILL)
    done = mlenv("cost", "budgets", "--uid", "uid-ranker")
    assert (done.returncode, "CATEGORY" in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["budgets", "-o", "csv"], "with -o json"),
        (["budgets", "ads"], "or mlenv cost budgets"),
    ],
)
def test_the_command_refuses_nonsense(mlenv: Mlenv, server: Server, words: list[str], said: str) -> None:  # noqa: F811
    done = mlenv("cost", *words)
    assert (done.returncode, said in " ".join(done.stderr.split())) == (2, True), done.stderr
    assert not server.requests


def test_whoever_may_not_is_told(client: Client, server: Server) -> None:
    server.script = lambda _: Answer({"message": "budgets.mlenv.io is forbidden"}, 403)
    with pytest.raises(Forbidden, match="budgets"):
        client.budgets()
