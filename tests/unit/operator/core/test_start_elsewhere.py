"""A job that starts from another job's checkpoint in W&B says with whose key, or is refused in words."""

from __future__ import annotations

from typing import Any

import pytest

from mlenv_api.podtemplate import EnvironmentSpec
from mlenv_api.tracking import is_artifact
from mlenv_api.trainingjob import TrainingJobSpec
from mlenv_operator.core.validate import environment_problems, job_problems

WANDB = {"wandb": {"entity": "a", "project": "p", "apiKeySecretRef": {"name": "s", "key": "k"}}}
SOURCE = "ads/ctr/ranker-ckpt:v7"
REFUSED = (
    f"spec.checkpoint.resume.from names {SOURCE} in W&B, and nothing says with whose key it is read; add"
    " spec.tracking.wandb, or name a folder"
)


def spec(**more: Any) -> TrainingJobSpec:
    base = {"trainer": {"image": "x:1", "command": ["train.py"]}}
    resume = {"checkpoint": {"resume": {"policy": "From", "from": SOURCE}}}
    return TrainingJobSpec.model_validate({**base, **resume, **more})


def test_without_a_courier_it_is_refused() -> None:
    assert job_problems("ranker", spec()) == (REFUSED,)
    assert job_problems("ranker", spec(tracking=WANDB)) == ()


def test_the_environment_may_say_where_the_store_is() -> None:
    job = spec(environmentRef={"name": "torch"})
    assert job_problems("ranker", job) == ()
    assert environment_problems(job, EnvironmentSpec(image="x:1")) == (REFUSED,)
    tracked = EnvironmentSpec.model_validate({"image": "x:1", "tracking": WANDB})
    assert environment_problems(job, tracked) == ()


@pytest.mark.parametrize(
    "text", ["/mnt/a/step-000000001200.a3", "ads/ctr:v1", "ads/ctr/x", "a/b/c:v1/x", None]
)
def test_a_folder_is_none(text: str | None) -> None:
    assert not is_artifact(text)
