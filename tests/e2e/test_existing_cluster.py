"""A cluster that somebody else runs, as far as the tool can tell: only its kubeconfig is given."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlenv_api import names
from mlenv_local import Cluster, platform
from mlenv_local.cli import app

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]


def test_the_platform_is_installed_into_an_existing_cluster(
    installed: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session's cluster stands for it, and gets its own installation back in the end."""
    monkeypatch.setenv("PATH", f"{installed.helm.parent}:{os.environ['PATH']}")
    deployment = installed.kubectl.get("deployment", "mlenv-operator", "-n", platform.NAMESPACE)
    image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    options = ["--kubeconfig", str(installed.kubeconfig), "--operator-image", image]
    try:
        ended = CliRunner().invoke(
            app, ["install", *options, "--environment", "theirs=registry.invalid/torch:1"]
        )
        assert ended.exit_code == 0, ended.output
        found = installed.kubectl.get(names.CLUSTER_ENVIRONMENTS)["items"]
        images = {one["metadata"]["name"]: one["spec"]["image"] for one in found}
        assert images["theirs"] == "registry.invalid/torch:1"
        status = installed.kubectl.get("deployment", "mlenv-operator", "-n", platform.NAMESPACE)["status"]
        assert status["readyReplicas"] == 2
    finally:
        platform.install(installed, ROOT)
