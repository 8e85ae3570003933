"""Every manifest of the chart is accepted by a real API server, strictly, under the restricted level."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from .conftest import Kubectl

pytestmark = [pytest.mark.api, pytest.mark.timeout(3600)]  # the first one may build the server

RECORDED = sorted((Path(__file__).parents[1] / "golden" / "chart").glob("*.golden.yaml"))


@pytest.fixture(scope="module", autouse=True)
def namespace(kubectl: Kubectl) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    manifest = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "mlenv-system", "labels": labels},
    }
    kubectl.ok("apply", "--server-side", "-f", "-", stdin=manifest)


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.name.split(".")[0])
def test_recorded_manifests_are_valid(kubectl: Kubectl, path: Path) -> None:
    documents = list(yaml.safe_load_all(path.read_text()))
    for document in documents:
        done = kubectl.run("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=document)
        assert done.returncode == 0, f"{document['kind']} {document['metadata']['name']}: {done.stderr}"
        assert "Warning" not in done.stderr, done.stderr
