"""Costs on the screen: what is shown adds up, and every way that the question fails is a sentence."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from tests.unit.sdk.conftest import Answer, Request, Server, job
from tests.unit.sdk.test_cli import mlenv  # noqa: F401  (a fixture)

from mlenv_sdk import Client, ConfigError, Forbidden, NotInstalled, Rejected, Unavailable, Unreadable
from mlenv_sdk.view import costs as view

if TYPE_CHECKING:
    from rich.console import RenderableType
    from tests.unit.sdk.test_cli import Mlenv

PROXY = "/api/v1/namespaces/mlenv-system/services/mlenv-operator-costs:http/proxy/v1/costs"
TOKEN = "/api/v1/namespaces/team/serviceaccounts/mlenv-costs/token"
HOUR = 3_600_000_000


def amounts(cost: int, hours: float = 1.0) -> dict[str, str]:
    micros = str(int(hours * HOUR))
    return {
        "costNanos": str(cost),
        "listCostNanos": str(2 * cost),
        "gpuMicros": micros,
        "heldMicros": micros,
    }


def costs(*groups: tuple[str, int], rest: int = 0) -> dict[str, Any]:
    total = sum(cost for _, cost in groups) + rest
    return {
        "kind": "Costs",
        "version": "v1",
        "by": ["team"],
        "since": "2025-11-01T00:00:00.000000Z",
        "until": "2025-11-03T05:00:00.000000Z",
        "billedMonth": None,
        "settledUntil": "2025-11-03T04:00:00.000000Z",
        "namespaces": ["ns-ads", "ns-feed"],
        "groups": [{"key": {"team": team}, **amounts(cost)} for team, cost in groups],
        "rest": {"groups": 3 if rest else 0, **amounts(rest)},
        "total": {"groups": len(groups), **amounts(total)},
        "nextOffset": None,
    }


BILL = {
    "kind": "JobCost",
    "version": "v1",
    "namespace": "team",
    "job": "ranker",
    "uid": "uid-ranker",
    "sameName": ["uid-older"],
    "asOf": "2025-11-03T04:05:06.000000Z",
    "categories": [{"category": name, **amounts(3 * 10**17)} for name in ("productive", "startup")],
    "costNanos": str(6 * 10**17),
    "listCostNanos": str(12 * 10**17),
    "rateNanosPerHour": "55040000000",
}


def line(reason: str, revision: int, cost: int) -> dict[str, Any]:
    price = {"id": "p5-0", "listNanosPerHour": "1", "effectiveNanosPerHour": "1", "row": {}}
    return {
        "hour": "2025-11-03T04:00:00.000000Z",
        "pod": "ranker-0-0",
        "node": "n[bold]1",
        "category": "hang",
        "attempt": 2,
        "intervals": [["2025-11-03T04:00:05.000000Z", "2025-11-03T04:59:59.500000Z"]],
        "price": price if revision else None,
        "reason": reason,
        "revision": revision,
        **amounts(cost),
    }


EXPLANATION = {
    "kind": "Explanation",
    "version": "v1",
    "uid": "uid-ranker",
    "lines": [line("closed", 0, 2 * 10**9), line("mark", 1, -(10**9) // 2)],
    "nextOffset": None,
}


def telling(told: Any, code: int = 200) -> Any:
    """A server with a job, an account, and a proxy to this answer."""

    def script(request: Request) -> Answer:
        if request.path == TOKEN:
            assert request.body["spec"] == {"audiences": ["mlenv-costs"], "expirationSeconds": 600}
            return Answer({"status": {"token": "short-lived"}}, 201)
        if request.path.startswith(PROXY):
            # The kubeconfig's own token is for the API server alone.
            headers = {name.lower(): value for name, value in request.headers.items()}
            assert headers["x-mlenv-token"] == "short-lived"
            assert headers["authorization"] == "Bearer sesame"
            return Answer(told, code)
        return Answer(job())

    return script


def shown(what: RenderableType) -> str:
    text = io.StringIO()
    Console(file=text, width=160, highlight=False).print(what)
    return "\n".join(row.rstrip() for row in text.getvalue().splitlines()) + "\n"


def test_the_table_as_recorded(server: Server, client: Client) -> None:
    thirds = [("ads", 10**9 // 3), ("[red]feed", 10**9 // 3), ("", 10**9 // 3 + 1)]
    server.script = telling(costs(*thirds, rest=5_000_000))
    assert shown(view.report(client.costs.group(["team"]))) == GROUPS


GROUPS = """\
TEAM        GPU-HOURS    LIST    COST
ads               1.0   $0.67   $0.33
[red]feed         1.0   $0.66   $0.33
                  1.0   $0.67   $0.33
(3 more)          1.0   $0.01   $0.01
TOTAL             4.0   $2.01   $1.00

ns-ads, ns-feed; 2025-11-01 00:00 to 2025-11-03 05:00 UTC; closed hours, until 2025-11-03 04:00
"""


def test_a_bill_as_recorded(server: Server, client: Client) -> None:
    server.script = telling(BILL)
    assert shown(view.bill(client.costs.job("ranker"))) == (
        "CATEGORY     GPU-HOURS                LIST              COST\n"
        "productive         1.0     $600,000,000.00   $300,000,000.00\n"
        "startup            1.0     $600,000,000.00   $300,000,000.00\n"
        "TOTAL              2.0   $1,200,000,000.00   $600,000,000.00\n"
        "\n"
        "team/ranker until 2025-11-03 04:05 UTC; $55.04 an hour now\n"
        "another job had this name: --uid uid-older\n"
    )


def test_a_bill_with_time_without_a_price_says_so(server: Server, client: Client) -> None:
    server.script = telling({**BILL, "unpricedMicros": str(5 * HOUR // 2)})
    bill = client.costs.job("ranker")
    assert bill.unpriced_micros == 5 * HOUR // 2
    said = "2 h 30 min of its pods' time have no price: it cost more, or nobody knows what"
    assert said in shown(view.bill(bill)).splitlines()


def test_an_explanation_as_recorded(server: Server, client: Client) -> None:
    server.script = telling(EXPLANATION)
    rows = shown(view.explanation(list(client.costs.explain("ranker")))).splitlines()
    assert [" ".join(row.split()) for row in rows[1:]] == [
        f"{WHERE} no price closed 1.0 $4.00 $2.00",
        f"{WHERE} p5-0 correction 1: mark 1.0 -$1.00 -$0.50",
        "TOTAL 2.0 $3.00 $1.50",
    ]


WHERE = "2025-11-03 04:00 ranker-0-0 n[bold]1 hang 2 04:00:05-04:59:59"


@given(st.lists(st.integers(-(10**20), 10**20), max_size=30), st.sampled_from([view.CENT, view.FINE]))
def test_what_is_shown_adds_up_and_is_off_by_less_than_a_unit(values: list[int], unit: int) -> None:
    cells = view.rounded(values, unit)
    assert all(abs(cell * unit - value) < unit for cell, value in zip(cells, values, strict=True))
    assert abs(2 * (sum(cells) * unit - sum(values))) <= unit


def test_cells_are_dollars() -> None:
    assert [view.dollars(one, view.CENT) for one in (0, 5, -5, 123_456_789)] == [
        "$0.00", "$0.05", "-$0.05", "$1,234,567.89",
    ]  # fmt: skip
    assert view.dollars(5, view.FINE) == "$0.0005"


def test_pages_of_an_explanation_are_read_to_the_end(server: Server, client: Client) -> None:
    pages = [{**EXPLANATION, "nextOffset": 1000}, EXPLANATION]
    base = telling(None)
    server.script = lambda request: Answer(pages.pop(0)) if request.path.startswith(PROXY) else base(request)
    assert len(list(client.costs.explain("ranker"))) == 4
    asked = [one.query for one in server.requests if one.path.startswith(PROXY)]
    assert asked == [
        {"limit": "1000", "offset": "0"},
        {"limit": "1000", "offset": "1000", "uid": "uid-ranker"},
    ]


@pytest.mark.parametrize(
    ("code", "told", "refusal"),
    [
        (400, {"message": "by: there is no 'x'"}, (Rejected, "By: there is no 'x'.")),
        (422, {"message": "Too slow."}, (Rejected, "Too slow.")),
        (403, {"message": "ann may not"}, (Forbidden, "Ann may not.")),
        (503, {"message": "busy"}, (Unavailable, "Busy.")),
        (421, {"message": "go elsewhere"}, (Unavailable, "No replica of the operator leads")),
        (404, {"kind": "Status", "message": "services not found"}, (NotInstalled, "ledger.type")),
        (403, {"kind": "Status", "message": "no"}, (Forbidden, "costs.reachableBy")),
        (503, {"kind": "Status", "message": "no endpoints"}, (Unavailable, "Is the operator up, and")),
        (502, "<html>", (Unavailable, "HTTP 502.")),
        (200, "<html>", (Unreadable, "no answer of version v1")),
        (200, {"version": "v2"}, (Unreadable, "no answer of version v1")),
    ],
)
def test_refusals_are_sentences(
    server: Server, client: Client, code: int, told: Any, refusal: tuple[type[Exception], str]
) -> None:
    server.script = telling(told, code)
    with pytest.raises(refusal[0]) as raised:
        client.costs.group()
    assert refusal[1] in str(raised.value)


def test_a_url_of_its_own_is_asked_with_the_token_alone(
    server: Server, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLENV_COST_URL", server.url)
    monkeypatch.setenv("MLENV_COST_TOKEN", "mine")
    server.answers(Answer(costs(("ads", 5))))
    assert client.costs.group().total.cost == 5
    assert [(one.path, one.headers["Authorization"]) for one in server.requests] == [
        ("/v1/costs", "Bearer mine")
    ]
    monkeypatch.setenv("MLENV_COST_URL", "http://costs.example.com")
    with pytest.raises(ConfigError, match="must begin with https"):
        client.costs.group()
    monkeypatch.setenv("MLENV_COST_URL", "")
    monkeypatch.setenv("MLENV_COST_SERVICE", "a/b/c")
    with pytest.raises(ConfigError, match="namespace/name"):
        client.costs.group()


def test_the_command_says_what_the_options_say(mlenv: Mlenv, server: Server) -> None:  # noqa: F811
    server.script = telling(costs(("ads", 10**10)))
    done = mlenv(
        "-n", "team", "cost", "--by", "use-case,day", "--since", "2025-11-01", "--where", "use-case=a=b"
    )
    assert (done.returncode, "$10.00" in done.stdout) == (0, True), done.stderr
    assert server.requests[-1].query == {
        "by": "use_case,day",
        "since": "2025-11-01",
        "limit": "20",
        "sort": "cost",
        "namespace": "team",
        "use_case": "a=b",
    }
    assert mlenv("cost", "--since", "7d").returncode == 0
    assert server.requests[-1].query["since"].endswith(":00Z")


def test_the_command_tells_of_a_job_and_explains_it(mlenv: Mlenv, server: Server) -> None:  # noqa: F811
    server.script = telling(BILL)
    assert "$55.04 an hour now" in mlenv("cost", "ranker").stdout
    assert server.requests[-1].query == {"uid": "uid-ranker"}
    server.script = telling(EXPLANATION)
    assert "correction 1: mark" in mlenv("cost", "explain", "ranker").stdout
    assert server.requests[-1].path == f"{PROXY}/jobs/team/ranker/explain"


def test_the_command_writes_files(mlenv: Mlenv, server: Server) -> None:  # noqa: F811
    server.script = telling(costs(("ads", 10**10)))
    assert mlenv("cost", "-o", "json", "-f", "costs.json").returncode == 0
    assert json.loads(Path("costs.json").read_text())["total"]["costNanos"] == str(10**10)
    server.script = telling("team,cost\r\n")
    assert mlenv("cost", "-o", "csv", "-f", "costs.csv").returncode == 0
    assert Path("costs.csv").read_bytes() == b"team,cost\r\n"
    assert server.requests[-1].query["format"] == "csv"


def test_a_file_of_charges_is_whole_or_refused(mlenv: Mlenv, server: Server) -> None:  # noqa: F811
    server.script = telling(EXPLANATION)
    done = mlenv("cost", "explain", "ranker", "-o", "csv")
    assert (done.returncode, "more than 5,000 charges" in done.stderr) == (2, True)
    server.script = telling({**EXPLANATION, "lines": []})
    assert mlenv("cost", "explain", "ranker", "-o", "csv", "-f", "lines.csv").returncode == 0
    assert server.requests[-1].query == {"uid": "uid-ranker", "format": "csv", "limit": "5000"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a", "b"], "mlenv cost explain JOB"),
        (["explain", "a", "b"], "mlenv cost explain JOB"),
        (["--where", "team"], "--where must be as team=ads"),
        (["-o", "xls"], "xls"),
        (["--limit", "0"], "limit"),
    ],
)
def test_the_command_refuses_nonsense(
    mlenv: Mlenv,  # noqa: F811
    server: Server,
    words: list[str],
    said: str,
) -> None:
    server.script = telling(costs())
    done = mlenv("cost", *words)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
