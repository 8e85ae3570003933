"""Estimates on the screen, and every way that the question fails is a sentence."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from tests.unit.sdk.conftest import JOBS, Answer, job
from tests.unit.sdk.test_cli import mlenv  # noqa: F401  (a fixture)
from tests.unit.sdk.test_costs import PROXY, TOKEN, shown, telling

from mlenv_sdk import Client, InvalidManifest, TimedOut, TrainingJob, Unreachable, Unreadable, cost_cli, costs
from mlenv_sdk.estimates import read_estimate
from mlenv_sdk.view import costs as view

if TYPE_CHECKING:
    from tests.unit.sdk.conftest import Request, Server
    from tests.unit.sdk.test_cli import Mlenv

DOLLAR = 10**9


def machine(capacity: str, rate: int | None, type_: str = "p5[b].48xlarge", **more: Any) -> dict[str, Any]:
    told = None if rate is None else str(rate)
    return {
        "provider": "aws", "region": "us-east-1", "instanceType": type_, "capacityType": capacity,
        "reservation": "", "inCluster": True, "share": "1/2", "nanosPerHour": told,
        "listNanosPerHour": told, **more,
    }  # fmt: skip


ESTIMATE: dict[str, Any] = {
    "kind": "Estimate",
    "version": "v1",
    "asOf": "2026-11-01T00:00:00Z",
    "asks": {"pods": 4, "gpus": 4, "cpuMilli": 0, "memoryBytes": 0},
    "assumed": 1,
    "why": "the cheapest of 2 kinds that it fits, spot left aside",
    "notes": ["prices know nothing of pool, which it selects nodes by too"],
    "options": [
        machine("spot", 44 * DOLLAR),
        machine("on-demand", 110 * DOLLAR + 1),
        machine("", None, "", provider="", region=""),
    ],
    "durations": [
        {"what": "asked", "seconds": 43200, "costNanos": str(1320 * DOLLAR)},
        {"what": "activeDeadlineSeconds", "seconds": 90060, "costNanos": str(2751 * DOLLAR)},
    ],
    "limit": {"nanos": str(500 * DOLLAR), "onExceeded": "Suspend", "reachedAfterSeconds": 16363},
}
MANIFEST: dict[str, Any] = {
    "metadata": {"name": "ranker", "namespace": "team"},
    "spec": {
        "environmentRef": {"name": "torch"},
        "activeDeadlineSeconds": 90060,
        "trainer": {"numNodes": 4, "command": ["train.py"], "resourcesPerNode": {"limits": {"cpu": "1"}}},
        "podTemplateOverrides": {"spec": {"nodeSelector": {"pool": "x"}, "tolerations": [{"key": "gpu"}]}},
    },
}
SENT = {
    "environmentRef": {"name": "torch"},
    "activeDeadlineSeconds": 90060,
    "trainer": {"numNodes": 4, "resourcesPerNode": {"limits": {"cpu": "1"}}},
    "podTemplateOverrides": {"spec": {"nodeSelector": {"pool": "x"}}},
}


def test_the_table_as_recorded(server: Server, client: Client) -> None:
    server.script = telling(ESTIMATE)
    found = client.costs.estimate(MANIFEST, 43200)
    assert found.rate == 110 * DOLLAR + 1
    assert shown(view.estimate(found)) == TABLE
    asked = server.requests[-1]
    assert (asked.method, asked.path) == ("GET", f"{PROXY}/estimates/team")
    assert json.loads(asked.query.pop("job")) == SENT
    assert asked.query == {"seconds": "43200"}


TABLE = """\
    MACHINE          CAPACITY    WHERE           SHARE   AN HOUR
    p5[b].48xlarge   spot        aws us-east-1   1/2      $44.00
*   p5[b].48xlarge   on-demand   aws us-east-1   1/2     $110.00
    (no type)        -           -               1/2     unknown

4 pods with 4 GPUs each: $110.00 an hour (the cheapest of 2 kinds that it fits, spot left aside).
12 h: $1,320.00.
1 d 1 h 1 min, the most that activeDeadlineSeconds allows: $2,751.00.
spec.cost.limit, $500.00, is reached after 4 h 32 min: then it is suspended.
Note: prices know nothing of pool, which it selects nodes by too.
"""


def test_unknown_is_said_and_is_no_zero(server: Server, client: Client) -> None:
    nothing = {**ESTIMATE, "assumed": None, "options": [], "why": "unknown: no machine fits", "notes": []}
    nothing["durations"] = [{"what": "asked", "seconds": 30, "costNanos": None}]
    nothing["limit"] = {"nanos": "5", "onExceeded": "Warn", "reachedAfterSeconds": None}
    server.script = telling(nothing)
    found = client.costs.estimate(TrainingJob.from_manifest({**MANIFEST, "metadata": {"name": "ranker"}}))
    text = shown(view.estimate(found))
    assert found.rate is None
    assert "unknown an hour (unknown: no machine fits)." in text
    assert "30 s: unknown." in text
    assert "nobody knows when: then it only warns" in text
    assert "$0.00" not in text.replace("$0.0000", "")
    assert server.requests[-1].path == f"{PROXY}/estimates/team"  # the client's own namespace


def test_what_is_assumed_is_among_those_that_are_shown(server: Server, client: Client) -> None:
    many = [machine("on-demand", DOLLAR * number, f"m{number}") for number in range(1, 31)]
    server.script = telling({**ESTIMATE, "options": many, "assumed": 29})
    text = shown(view.estimate(client.costs.estimate(MANIFEST)))
    assert "*   m30 " in text
    assert "(18 more: -o json)" in text


def test_the_command_reads_a_manifest(mlenv: Mlenv, server: Server) -> None:  # noqa: F811
    server.script = telling(ESTIMATE)
    Path("job.yaml").write_text(yaml.safe_dump(MANIFEST))
    done = mlenv("cost", "estimate", "job.yaml", "--for", "12h")
    assert (done.returncode, "$110.00 an hour" in done.stdout) == (0, True), done.stderr
    assert server.requests[-1].query["seconds"] == "43200"
    done = mlenv("cost", "estimate", "-", "-o", "json", text=yaml.safe_dump(MANIFEST))
    assert json.loads(done.stdout)["assumed"] == 1
    assert "seconds" not in server.requests[-1].query


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["estimate", "job.yaml", "--for", "soon"], "--for must be as 90m, 12h or 7d"),
        (["estimate", "job.yaml", "-o", "csv"], "with -o json"),
        (["ranker", "--for", "12h"], "belongs to mlenv cost estimate"),
        (["estimate", "none.yaml"], "cannot be read"),
    ],
)
def test_the_command_refuses_nonsense(mlenv: Mlenv, server: Server, words: list[str], said: str) -> None:  # noqa: F811
    server.script = telling(ESTIMATE)
    Path("job.yaml").write_text(yaml.safe_dump(MANIFEST))
    done = mlenv("cost", *words)
    assert (done.returncode, said in " ".join(done.stderr.split())) == (2, True), done.stderr


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ({"kind": "Pod", "spec": {}}, "but a Pod"),
        ({"metadata": {"name": "x"}}, '"spec" is missing'),
        ({"spec": {"trainer": ["x"]}}, '"trainer" is no object'),
        ({"spec": {"tracking": {"x": "y" * 8000}}}, "more than 7,000 characters"),
    ],
)
def test_what_is_no_job_is_not_asked_about(client: Client, manifest: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidManifest, match=said):
        client.costs.estimate(manifest)


DEADLINE = ESTIMATE["durations"][1]
LIMIT = ESTIMATE["limit"]
HOURLY = "It will cost about $110.00 an hour on p5[b].48xlarge"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"durations": [], "limit": None}, f"{HOURLY}."),
        ({"limit": None}, f"{HOURLY}; at most $2,751.00 by its deadline, 1 d 1 h 1 min."),
        ({}, f"{HOURLY}; its limit, $500.00, is reached after 4 h 32 min."),
        ({"durations": []}, f"{HOURLY}; its limit, $500.00, is reached after 4 h 32 min."),
        (
            {"durations": [DEADLINE], "limit": {**LIMIT, "reachedAfterSeconds": 90061}},
            f"{HOURLY}; at most $2,751.00 by its deadline, 1 d 1 h 1 min.",
        ),
        ({"durations": [], "limit": {**LIMIT, "onExceeded": "Warn"}}, f"{HOURLY}."),
        (
            {"options": [machine("spot", 44 * DOLLAR, "g6", inCluster=False)], "assumed": 0, "limit": None},
            (
                "It will cost about $44.00 an hour on g6, spot, of which the cluster has none now;"
                " at most $2,751.00 by its deadline, 1 d 1 h 1 min."
            ),
        ),
        (
            {"assumed": 2, "why": "unknown: it fits machines that have no price", "durations": []},
            "What it will cost is unknown: it fits machines that have no price.",
        ),
        (
            {"assumed": None, "options": [], "why": "unknown: no machine fits"},
            "What it will cost is unknown: no machine fits.",
        ),
    ],
)
def test_an_estimate_in_one_line(changes: dict[str, Any], said: str) -> None:
    assert view.in_short(read_estimate({**ESTIMATE, **changes})) == said


def submitting(told: Any, code: int = 200) -> Any:
    """A server that takes jobs, and tells costs like this."""
    others = telling(told, code)

    def script(request: Request) -> Answer:
        if request.path == JOBS and request.method == "POST":
            stored = job() | {"spec": request.body["spec"]}
            return Answer(stored, 201)
        answer: Answer = others(request)
        return answer

    return script


def submitted(run: Mlenv, *options: str) -> list[str]:
    """The lines that are said to whoever submits."""
    done = run("submit", "-", *options, text=yaml.safe_dump(MANIFEST))
    assert (done.returncode, done.stderr) == (0, "")
    first, *lines, last = done.stdout.splitlines()
    assert (first, last) == (
        'The job "ranker" is submitted to team.',
        "Follow it: mlenv -n team watch ranker",
    )
    return lines


def test_submit_says_what_the_job_will_cost(mlenv: Mlenv, server: Server) -> None:  # noqa: F811
    server.script = submitting(ESTIMATE)
    assert submitted(mlenv) == [f"{HOURLY}; its limit, $500.00, is reached after 4 h 32 min."]
    asked = server.requests[-1]
    assert (asked.path, json.loads(asked.query["job"])) == (f"{PROXY}/estimates/team", SENT)
    server.requests.clear()
    assert submitted(mlenv, "--no-estimate") == []
    assert [one.path for one in server.requests] == [JOBS]


def test_where_nobody_tells_costs_submit_says_nothing_of_them(mlenv: Mlenv, server: Server) -> None:  # noqa: F811
    lacking = {"kind": "Status", "message": 'services "mlenv-operator-costs" not found'}
    for told, code in ((lacking, 404), (lacking, 503), ({"message": "no"}, 403), ("<html>", 200)):
        server.script = submitting(told, code)
        assert submitted(mlenv) == []
    newer = {key: value for key, value in ESTIMATE.items() if key != "options"}
    for told in (newer, {**ESTIMATE, "assumed": 7}, {**ESTIMATE, "durations": 3}):
        server.script = submitting(told)
        assert submitted(mlenv) == []


def test_an_answer_that_is_no_estimate_is_a_sentence(client: Client, server: Server) -> None:
    server.script = telling({**ESTIMATE, "assumed": 7})
    with pytest.raises(Unreadable, match="no estimate"):
        client.costs.estimate(MANIFEST)


def test_submit_does_not_wait_for_an_answer_that_is_slow(
    mlenv: Mlenv,  # noqa: F811
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quick, over, answered = submitting(ESTIMATE), threading.Event(), threading.Event()
    in_time: list[bool] = []

    def slow(request: Request) -> Answer:
        if request.path != TOKEN:
            answer: Answer = quick(request)
            return answer
        in_time.append(over.wait(25))
        answered.set()
        return Answer()

    monkeypatch.setattr(cost_cli, "PATIENCE", 0.2)
    server.script = slow
    assert submitted(mlenv) == []
    over.set()
    assert answered.wait(60)
    assert in_time == [True], "the command was over before the answer"


def test_a_leader_is_not_looked_for_for_ever(
    client: Client, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "TRIES", 10**9)
    server.script = telling({"message": "not me"}, 421)
    with pytest.raises((TimedOut, Unreachable)):
        client.costs.within(0.5).estimate(MANIFEST)
