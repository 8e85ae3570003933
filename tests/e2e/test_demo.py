"""`./run demo` as a person runs it: what it shows is there, and its bill is what one adds up by hand."""

from __future__ import annotations

import base64
import csv
import json
import os
import re
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from live import PODS, Api, Watched

from mlenv_local import Cluster, needs
from mlenv_local.progress import Reporter
from mlenv_local.wandb_server import running

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
MLENV = Path(sys.prefix) / "bin" / "mlenv"
NAME = "mlenv-tdemo"
JOB = "movielens-ranker"
PRICES = ROOT / "operator/mlenv_operator/cost/data/aws-2026-07-20.csv"
GPUS = 4
"""Of a g5.12xlarge; each pod asks for one."""
ROUNDING = 500
"""Nanodollars: an open hour has a floor in each of its rows, a pod, attempt and category each."""


@dataclass(frozen=True)
class Shown:
    """A demo that has ended, and whose cluster is still up."""

    cluster: Cluster
    text: str
    pods: dict[str, dict[str, Any]]
    """By UID, the last that the API server told of each pod."""


@pytest.fixture(scope="module")
def shown() -> Iterator[Shown]:
    missing = needs.judge(needs.look(), images=True)
    if missing:
        pytest.skip(needs.explain(missing))
    cluster = Cluster(NAME, reporter=Reporter())
    cluster.down()
    cluster.up()
    pods: dict[str, dict[str, Any]] = {}
    watch = Watched(
        Api(cluster.kubeconfig),
        PODS.format("default"),
        lambda pod: pods.update({pod["metadata"]["uid"]: pod}),
    )
    argv = [sys.executable, "tools/run.py", "demo", "--keep", "--name", NAME]
    env = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=1500)
    watch.close()
    assert done.returncode == 0, done.stdout + done.stderr
    yield Shown(cluster, done.stdout, pods)
    server = running.find(cluster.layout.root / "wandb")
    cluster.down()
    assert server is not None, "it stays while the cluster does"
    assert cluster.leftovers() == []


def told(cluster: Cluster, *words: str) -> Any:
    """What `mlenv cost` tells, as JSON."""
    argv = [MLENV, "--kubeconfig", cluster.kubeconfig, "cost", *words, "-o", "json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def paid() -> int:
    """Nanodollars of an hour, as the shipped file has them."""
    with PRICES.open(newline="") as file:
        (row,) = [one for one in csv.DictReader(file) if one["instance_type"] == "g5.12xlarge"]
    return int(Fraction(row["effective_usd_per_hour"]) * 10**9)


def held(pod: dict[str, Any]) -> int:
    """Seconds from the moment that a pod was scheduled to the end of its last container."""
    status = pod["status"]
    assert status["phase"] in {"Succeeded", "Failed"}, pod
    (begin,) = [one["lastTransitionTime"] for one in status["conditions"] if one["type"] == "PodScheduled"]
    containers = [*status["containerStatuses"], *status["initContainerStatuses"]]
    end = max(one["state"]["terminated"]["finishedAt"] for one in containers)
    return int((datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds())


def test_all_pods_were_lost_and_training_went_on_from_the_artifact(shown: Shown) -> None:
    gone = [one for one in shown.pods.values() if "deletionTimestamp" in one["metadata"]]
    left = [one for one in shown.pods.values() if "deletionTimestamp" not in one["metadata"]]
    assert (len(gone), len(left)) == (2, 2), shown.text
    brought = re.search(
        rf"was brought from (local/mlenv-demo/{JOB}-[0-9a-f-]+-ckpt:v\d+)$", shown.text, re.MULTILINE
    )
    page = re.search(r"^The run: (\S+)$", shown.text, re.MULTILINE)
    assert brought, shown.text
    assert page, shown.text
    # The second, or the third: the operator may hear of the two pods one after the other.
    assert re.search(rf"Attempt [23] goes on from {brought[1]}$", shown.text, re.MULTILINE), shown.text
    assert f"Run: {page[1]}\n" in shown.text
    assert re.search(r"attempt [23] went on from step [1-9]", shown.text)
    assert re.search(r"AUC 0\.7\d+ on held-out data", shown.text)


def test_the_page_stays_and_one_can_sign_in_with_a_key_that_was_never_shown(shown: Shown) -> None:
    page = re.search(r"Metrics and checkpoints go to (\S+)", shown.text)
    assert page
    with urllib.request.urlopen(page[1], timeout=60) as answer:
        assert "API key" in answer.read().decode()
    command = re.search(r"mlenv (local wandb key local --data \S+)", shown.text)
    assert command
    done = subprocess.run([MLENV, *command[1].split()], capture_output=True, text=True, check=True)
    (key,) = re.findall(r"WANDB_API_KEY=(\S+)", done.stdout)
    query = json.dumps({"query": "{ viewer { username } }"}).encode()
    server = page[1].removesuffix("/local/mlenv-demo")
    manager = urllib.request.HTTPPasswordMgrWithPriorAuth()
    manager.add_password(None, server, "api", key, is_authenticated=True)
    opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(manager))
    asked = urllib.request.Request(f"{server}/graphql", query, {"Content-Type": "application/json"})
    with opener.open(asked, timeout=60) as answer:
        assert json.load(answer)["data"]["viewer"]["username"] == "local"


def test_the_key_is_in_its_secret_and_was_shown_nowhere(shown: Shown) -> None:
    secret = shown.cluster.kubectl.get("secret", "wandb")
    key = base64.b64decode(secret["data"]["api-key"]).decode()
    environment = shown.cluster.kubectl.get("clustertrainingenvironment", "local")
    places = [shown.text, *map(json.dumps, (*shown.pods.values(), environment))]
    assert len(key) == 40
    assert [place for place in places if key in place] == []


def test_the_bill_is_what_one_adds_up_by_hand(shown: Shown) -> None:
    bill = told(shown.cluster, JOB)
    seconds = [held(pod) for pod in shown.pods.values()]
    expected = Fraction(paid() * sum(seconds), 3600 * GPUS)
    assert abs(int(bill["costNanos"]) - expected) <= ROUNDING, (bill, seconds)
    assert min(seconds) > 0


def test_it_is_split_and_the_redone_steps_are_lost_work(shown: Shown) -> None:
    bill = told(shown.cluster, JOB)
    split = {one["category"]: int(one["costNanos"]) for one in bill["categories"]}
    assert sum(split.values()) == int(bill["costNanos"])
    lost = re.search(r": (\d+) of these steps were done again", shown.text)
    assert lost
    assert int(lost[1]) > 0, shown.text
    assert split["lost_work"] > 0, split
    assert split["productive"] > 0, split
    assert re.search(r"^lost_work .*\$0\.\d{4}$", shown.text, re.MULTILINE), shown.text
    assert "g5.12xlarge of aws in us-east-1, at $5.672 an hour" in shown.text
