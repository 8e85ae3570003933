"""The command on the real cluster, as a user runs it: submit, follow, read the logs, delete."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mlenv_local import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

MLENV = Path(sys.prefix) / "bin" / "mlenv"
COUNT = "import sys; [print('line', i, flush=True) for i in range(3)]; sys.exit(int(sys.argv[1]))"


def mlenv(cluster: Cluster, namespace: str, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
    argv = [MLENV, "--kubeconfig", cluster.kubeconfig, "--namespace", namespace, *words]
    env = os.environ | {"COLUMNS": "200"}
    return subprocess.run(argv, input=text, env=env, capture_output=True, text=True, check=False, timeout=300)


def manifest(name: str, exit_code: int) -> str:
    spec: dict[str, Any] = {
        "environmentRef": {"name": "local"},
        "trainer": {"command": ["python3", "-c", COUNT, str(exit_code)]},
        "failurePolicy": {"maxRestarts": 0},
    }
    job = {"apiVersion": "mlenv.io/v1alpha1", "kind": "TrainingJob", "metadata": {"name": name}, "spec": spec}
    return json.dumps(job)


def test_a_job_that_completes(installed: Cluster, namespace: str) -> None:
    done = mlenv(installed, namespace, "submit", "-", "--watch", text=manifest("good", 0))
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'The job "good" is complete' in done.stdout.splitlines()[-1]
    logs = mlenv(installed, namespace, "logs", "good", "--follow").stdout
    assert [line[-6:] for line in logs.splitlines() if "] line " in line] == ["line 0", "line 1", "line 2"]
    assert mlenv(installed, namespace, "wait", "good").returncode == 0
    assert mlenv(installed, namespace, "delete", "good").returncode == 0
    assert 'There is no job "good"' in mlenv(installed, namespace, "get", "good").stderr


def test_a_job_that_fails(installed: Cluster, namespace: str) -> None:
    done = mlenv(installed, namespace, "submit", "-", "--watch", text=manifest("bad", 3))
    assert done.returncode == 1, done.stdout + done.stderr
    assert 'The job "bad" failed.' in done.stdout.splitlines()[-1]
    text = mlenv(installed, namespace, "describe", "bad").stdout
    assert "Failed" in text
    assert "bad-0-0" in text
    assert mlenv(installed, namespace, "wait", "bad", "--for", "Complete").returncode == 1


def test_logs_of_a_job_that_waits_say_why(installed: Cluster, namespace: str) -> None:
    job = json.loads(manifest("waits", 0))
    job["spec"]["trainer"]["image"] = "none.invalid/nothing:1"
    assert mlenv(installed, namespace, "submit", "-", text=json.dumps(job)).returncode == 0
    assert (
        mlenv(installed, namespace, "wait", "waits", "--for", "PodsReady", "--timeout", "2").returncode == 1
    )
    done = mlenv(installed, namespace, "logs", "waits")
    assert done.returncode == 2
    assert "has no log yet" in done.stderr or "has no pod 0 now" in done.stderr
