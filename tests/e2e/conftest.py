"""One real cluster with the platform on it, for the whole session.

MLENV_TEST_CLUSTER names another cluster than mlenv-test, MLENV_KEEP=1 leaves it up for the next session.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mlenv_local import Cluster, needs, platform
from mlenv_local.progress import Reporter

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    missing = needs.judge(needs.look(), images=True)
    if missing:
        pytest.skip(needs.explain(missing))
    found = Cluster(os.environ.get("MLENV_TEST_CLUSTER", "mlenv-test"), reporter=Reporter())
    found.up(nodes=2)
    yield found
    if os.environ.get("MLENV_KEEP") != "1":
        found.down()
        assert found.leftovers() == []


@pytest.fixture(scope="session")
def installed(cluster: Cluster) -> Cluster:
    """The cluster with the chart installed: the operator runs from its image."""
    platform.install(cluster, ROOT)
    return cluster


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of the test's own; in the end it can be deleted, because nothing holds it."""
    name = f"t-{secrets.token_hex(4)}"
    labels = {"pod-security.kubernetes.io/enforce": "privileged"}
    cluster.kubectl.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    )
    cluster.kubectl.wait_for_account(name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--timeout=300s", timeout=330)
