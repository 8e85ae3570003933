"""What annotations say of a job's code reaches its couriers, and nobody else."""

from __future__ import annotations

import json
from typing import Any

from runs import Run

from mlenv_api import names

WANDB = {
    "wandb": {"entity": "ads", "project": "ranker", "apiKeySecretRef": {"name": "wandb", "key": "api-key"}}
}


def submitted(**annotations: str) -> Run:
    run = Run(tracking=WANDB)
    assert run.cluster.job is not None
    run.cluster.job["metadata"]["annotations"] = annotations
    return run.settle()


def variables(run: Run, kind: str) -> list[dict[str, Any]]:
    """Those of one container of each pod."""
    specs = [pod["spec"][kind][0]["env"] for pod in run.cluster.pods.values()]
    return [{one["name"]: one.get("value") for one in env} for env in specs]


def test_couriers_are_told_of_the_code_and_of_no_secret() -> None:
    run = submitted(
        **{
            names.ANNOTATION_GIT_COMMIT: "9f2c" * 10,
            names.ANNOTATION_GIT_REMOTE: "https://ada:s3cret@git.example/ads/ranker.git",
            names.ANNOTATION_GIT_DIRTY: "true",
        }
    )
    told = [json.loads(one[names.ENV_CODE]) for one in variables(run, "initContainers")]
    assert told == 2 * [
        {"commit": "9f2c" * 10, "remote": "https://git.example/ads/ranker.git", "dirty": True}
    ]
    assert [names.ENV_CODE in one for one in variables(run, "containers")] == [False, False]
    assert "s3cret" not in json.dumps(list(run.cluster.pods.values()))


def test_without_a_word_of_it_there_is_no_such_variable() -> None:
    run = submitted(**{names.ANNOTATION_USER: "ada", names.ANNOTATION_GIT_COMMIT: "no commit"})
    assert [names.ENV_CODE in one for one in variables(run, "initContainers")] == [False, False]
