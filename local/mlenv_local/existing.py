"""The platform on a cluster that somebody else runs: this checkout's chart, images from a registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlenv_local.errors import LocalError
from mlenv_local.platform import CHART, helm_install

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlenv_local.external import ExternalCluster

CHECKOUT = Path(__file__).parents[2]


def install_existing(
    cluster: ExternalCluster, operator_image: str, environments: Sequence[str], root: Path = CHECKOUT
) -> None:
    """Install the chart, or bring an installed one up to date; ready when it returns.

    Args:
        cluster: Where to.
        operator_image: Reference of the operator's image, which the cluster can pull.
        environments: What jobs may run in, each as NAME=IMAGE.
        root: The checkout that holds the chart.
    """
    if not (root / CHART / "Chart.yaml").is_file():
        raise LocalError(f"There is no chart at {root / CHART}: run this from a checkout of the project.")
    helm_install(cluster, root, values(operator_image, environments))


def values(operator_image: str, environments: Sequence[str]) -> dict[str, Any]:
    """The chart's values for these images: pure."""
    return {
        "image": image_values(operator_image),
        "environments": [_environment(one) for one in environments],
    }


def image_values(reference: str) -> dict[str, str]:
    """A reference such as registry:5000/team/operator:1.0, or one with @sha256:…, in the chart's words."""
    name, _, digest = reference.partition("@")
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:  # what follows the colon is a registry's port and a path
        repository, tag = name, ""
    if not repository:
        raise LocalError(f"{reference!r} is no image: name one as registry/repository:tag.")
    return {"registry": "", "repository": repository, "tag": tag, "digest": digest}


def _environment(text: str) -> dict[str, Any]:
    name, _, image = text.partition("=")
    if not name or not image:
        raise LocalError(f"{text!r} is no environment: name one as NAME=IMAGE.")
    return {"name": name, "spec": {"image": image}}
