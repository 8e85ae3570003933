"""The platform on an existing cluster: images in the chart's words, and mistakes in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mlenv_local import ExternalCluster, LocalError
from mlenv_local.existing import image_values, install_existing, values

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("reference", "repository", "tag", "digest"),
    [
        ("operator", "operator", "", ""),
        ("mlenv/operator:0.1.0", "mlenv/operator", "0.1.0", ""),
        ("registry:5000/mlenv/operator", "registry:5000/mlenv/operator", "", ""),
        ("registry:5000/mlenv/operator:1", "registry:5000/mlenv/operator", "1", ""),
        ("ghcr.io/a/b@sha256:00", "ghcr.io/a/b", "", "sha256:00"),
        ("ghcr.io/a/b:1@sha256:00", "ghcr.io/a/b", "1", "sha256:00"),
    ],
)
def test_a_reference_in_the_charts_words(reference: str, repository: str, tag: str, digest: str) -> None:
    said = image_values(reference)
    assert said == {"registry": "", "repository": repository, "tag": tag, "digest": digest}


def test_environments_are_named_with_their_images() -> None:
    made = values("op:1", ["torch=reg/torch:2", "jax=reg:5000/jax"])
    assert [(one["name"], one["spec"]["image"]) for one in made["environments"]] == [
        ("torch", "reg/torch:2"),
        ("jax", "reg:5000/jax"),
    ]


@pytest.mark.parametrize(("operator", "environments"), [("", []), ("op", ["torch"]), ("op", ["=image"])])
def test_what_makes_no_sense_is_said(operator: str, environments: list[str]) -> None:
    with pytest.raises(LocalError, match="name one as"):
        values(operator, environments)


def test_without_a_checkout_there_is_no_chart(tmp_path: Path) -> None:
    (tmp_path / "config").touch()
    with pytest.raises(LocalError, match="from a checkout"):
        install_existing(ExternalCluster(tmp_path / "config"), "op:1", [], tmp_path)
