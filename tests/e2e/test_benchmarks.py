"""Benchmarks on the real cluster: that they measure at all. How fast it is, is for people who run them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mlenv_local import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
KINDS = {"in_place": 2, "replaced_pod": 1, "torchrun": 1, "torchrun_one_agent": 1}


def test_every_kind_of_kill_is_followed_by_training_and_measured(installed: Cluster) -> None:
    argv = [sys.executable, str(ROOT / "benchmarks" / "recovery.py"), "--small", "--cluster", installed.name]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=850)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    *_, last = ended.stdout.splitlines()
    found = json.loads(last)
    for kind, kills in KINDS.items():
        assert found[f"{kind}_kills"] == kills
        assert found[f"{kind}_p95_s"] >= found[f"{kind}_p50_s"] > 0
    assert found["kills"] == sum(KINDS.values())
    assert found["torchrun_over_in_place"] > 0
    assert installed.exists(), "a cluster that was there is left"
