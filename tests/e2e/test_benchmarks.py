"""Benchmarks on the real cluster: that they measure at all. How fast it is, is for people who run them."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mlenv_local import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
KINDS = {"in_place": 2, "replaced_pod": 1, "torchrun": 1, "torchrun_one_agent": 1}


def measured(name: str, *options: str) -> dict[str, Any]:
    """What a benchmark says in its last line."""
    argv = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *options]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=850)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def test_every_kind_of_kill_is_followed_by_training_and_measured(installed: Cluster) -> None:
    found = measured("recovery", "--small", "--cluster", installed.name)
    for kind, kills in KINDS.items():
        assert found[f"{kind}_kills"] == kills
        assert found[f"{kind}_p95_s"] >= found[f"{kind}_p50_s"] > 0
    assert found["kills"] == sum(KINDS.values())
    assert found["torchrun_over_in_place"] > 0
    assert installed.exists(), "a cluster that was there is left"


def other_cluster() -> str:
    """A name that nobody else's has: a cluster of the same name would be taken down first."""
    return f"mlenv-tb{secrets.token_hex(2)}"


def test_leaders_that_fail_never_make_two_worlds() -> None:
    size = ("--faults=3", "--lease=6", "--jobs=4", "--pods=2")
    found = measured("failover", *size, "--name", other_cluster())
    assert sum(found["faults"].values()) == 3
    assert (found["double_worlds"], found["terms_with_two_leaders"], found["jobs_stuck"]) == (0, 0, 0)
    assert found["jobs_done"] >= 4
    assert found["worlds"] >= found["jobs_done"]


def test_live_jobs_are_told_of_and_a_cold_start_writes_nothing_needless() -> None:
    size = ("--jobs=8", "--pods=2", "--changes=2", "--seconds=6")
    found = measured("live", *size, "--name", other_cluster())
    assert (found["jobs"], found["changes"], found["changes_lost"]) == (8, 12, 0)
    assert found["double_worlds"] == 0
    assert found["takeover_s"] is not None
    assert found["takeover_writes"] == 1, "the status of the one job that was edited"
    assert found["rss_mb"] > 0
