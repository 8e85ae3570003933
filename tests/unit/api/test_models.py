from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mlenv_api import names
from mlenv_api.podtemplate import EnvironmentSpec
from mlenv_api.trainingjob import Launcher, TrainingJobSpec, TrainingJobStatus


def test_the_smallest_job_has_the_defaults_of_the_schema() -> None:
    spec = TrainingJobSpec.model_validate({"trainer": {}})
    assert spec.launcher is Launcher.MLENV
    assert spec.managed_by == names.MANAGED_BY
    assert (spec.trainer.num_nodes, spec.failure_policy.max_restarts) == (1, 3)
    assert spec.scheduling.assembly_timeout_seconds == 1800
    assert not spec.suspend


def test_unknown_fields_are_ignored_so_that_a_newer_schema_can_be_read() -> None:
    spec = TrainingJobSpec.model_validate({"trainer": {"new": 1}, "alsoNew": {}})
    assert "new" not in str(spec.wire())


def test_values_are_frozen() -> None:
    spec = TrainingJobSpec.model_validate({"trainer": {}})
    with pytest.raises(ValidationError):
        spec.suspend = True  # type: ignore[misc]


def test_what_is_unset_is_not_written() -> None:
    assert "activeDeadlineSeconds" not in TrainingJobSpec.model_validate({"trainer": {}}).wire()


def test_a_status_survives_the_wire() -> None:
    status = TrainingJobStatus.model_validate(
        {
            "observedGeneration": 3,
            "attempt": {"number": 2, "state": "Running", "since": "2026-01-01T00:00:00Z"},
            "incarnations": [0, 1],
        }
    )
    assert TrainingJobStatus.model_validate(status.wire()) == status


def test_an_unwatched_status() -> None:
    assert TrainingJobStatus().observed_generation == -1


@pytest.mark.parametrize(
    "spec",
    [
        {"trainer": {"numNodes": 0}},
        {"trainer": {"numNodes": names.MAX_JOB_NAME * 1000}},
        {"trainer": {"env": [{"name": "A-B", "value": "x"}]}},
        {"trainer": {"env": [{"name": "A", "value": "x" * 32769}]}},
        {"trainer": {}, "launcher": "Other"},
        {"trainer": {}, "environmentRef": {"name": "Upper"}},
        {},
    ],
)
def test_the_models_refuse_what_the_schema_refuses(spec: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TrainingJobSpec.model_validate(spec)


def test_an_environment_needs_only_an_image() -> None:
    assert EnvironmentSpec(image="a").launcher_command == ("python3", "-m", "mlenv.launch", "--")


JOB = st.from_regex(r"[a-z]([-a-z0-9]{0,50}[a-z0-9])?", fullmatch=True)


@given(JOB, st.integers(0, 1023), st.integers(0, 99999))
def test_pod_and_host_names_are_dns_labels(job: str, index: int, incarnation: int) -> None:
    assert len(job) <= names.MAX_JOB_NAME
    assert len(names.pod_name(job, index, incarnation)) <= 63
    assert names.pod_name(job, index, incarnation).startswith(names.host_name(job, index) + "-")
