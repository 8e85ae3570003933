"""The image that users get: built from its Dockerfile, and a recommender trained in it on two nodes."""

from __future__ import annotations

import secrets
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from live import Namespace

from mlenv_api import __version__, names
from mlenv_local.images.build import build
from mlenv_local.images.context import content_hash
from mlenv_local.progress import Reporter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlenv_local import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "trainer_image" / "Dockerfile"
EXAMPLE = ROOT / "examples" / "movielens_ranker"
TRAINED = 900.0
"""Seconds. Two nodes share the machine with the whole control plane."""


@pytest.fixture(scope="module")
def image(installed: Cluster) -> str:
    """In every node, as `helm` would name it."""
    name = f"mlenv.io/mlenv/trainer:{__version__}-{content_hash(DOCKERFILE, ROOT, {}, '')}"
    installed.load_image(build(DOCKERFILE, ROOT, name, reporter=Reporter()))
    return name


@pytest.fixture
def ns(installed: Cluster) -> Iterator[Namespace]:
    found = Namespace(installed, f"image-{secrets.token_hex(3)}")
    yield found
    found.close()


@pytest.fixture
def environment(installed: Cluster, image: str, tmp_path: Path) -> Iterator[str]:
    """An environment that is nothing but the image, and the folders that the example needs."""
    tmp_path.chmod(0o755)
    subprocess.run([sys.executable, str(EXAMPLE / "prepare.py"), str(tmp_path)], check=True)
    folders = {"/data": tmp_path, "/examples": EXAMPLE.parent}
    mounts = [{"name": path.strip("/"), "mountPath": path, "readOnly": True} for path in folders]
    volumes = [{"name": path.strip("/"), "hostPath": {"path": str(at)}} for path, at in folders.items()]
    name = f"image-{secrets.token_hex(3)}"
    installed.kubectl.apply(
        {
            "apiVersion": names.API_VERSION,
            "kind": names.CLUSTER_ENVIRONMENT,
            "metadata": {"name": name},
            "spec": {
                "image": image,
                "imagePullPolicy": "Never",
                "podTemplate": {"spec": {"volumes": volumes, "volumeMounts": mounts}},
            },
        }
    )
    yield name
    installed.kubectl("delete", names.CLUSTER_ENVIRONMENT, name)


def test_a_recommender_trains_in_the_real_image_on_two_nodes(ns: Namespace, environment: str) -> None:
    spec = yaml.safe_load((EXAMPLE / "job.yaml").read_text())["spec"]
    spec["environmentRef"] = {"kind": names.CLUSTER_ENVIRONMENT, "name": environment}
    job = ns.submit("ranker", **spec, launcher="MLEnv")
    status = job.until_phase("Complete", TRAINED)
    assert status["attempt"]["number"] == 1
    assert sorted(status["nodes"]["names"]) == ["node-1", "node-2"]
    values = {one["name"]: float(one["value"]) for one in status["progress"]["metrics"]}
    assert values["auc"] > values["baseline_auc"]
