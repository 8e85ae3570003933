"""Checks that a job's spec arms, beside those of the program."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

import mlenv as ml
from mlenv.sanity.rules import CHECKS, merged, unready
from mlenv_api.names import ENV_CHECKPOINT
from mlenv_api.sanity import Calibration, Check, SanitySpec
from mlenv_api.trainingjob import TrainingJobSpec
from mlenv_operator.core.render.effective import effective

if TYPE_CHECKING:
    from collections.abc import Callable

NUMBERS = [name for name in SanitySpec.model_fields if name not in {"armed", "floors", "calibration"}]
OWN = ml.Sanity(armed=("loss_spike",), loss_z=20.0, floors={"auc": 0.7})


@pytest.fixture
def arm(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """What the operator tells the pods of a job with such checks."""

    def tell(**sanity: Any) -> None:
        spec = {"trainer": {"image": "img:1", "command": ["train.py"]}, "checkpoint": {"sanity": sanity}}
        told = effective(TrainingJobSpec.model_validate(spec), None).checkpoint
        assert json.loads(told) == {"sanity": sanity}
        monkeypatch.setenv(ENV_CHECKPOINT, told)

    return tell


def test_without_a_word_in_the_spec_the_program_s_checks_are_as_they_were() -> None:
    assert merged(OWN, None) is OWN
    assert merged(None, None) is None
    assert merged(OWN, SanitySpec()) == OWN


def test_what_either_arms_is_armed_and_the_program_s_numbers_win() -> None:
    said = SanitySpec(armed=(Check.PROBE, Check.LOSS_SPIKE), floors={"auc": "0.6", "recall": "-0.1"})
    said = said.model_copy(update={"loss_z": "15", "cosine": "0.9", "calibration": Calibration(most="2")})
    found = merged(OWN, said)
    assert found == ml.Sanity(
        armed=("loss_spike", "probe"),
        loss_z=20.0,
        cosine=0.9,
        calibration=(0.8, 2.0),
        floors={"auc": 0.7, "recall": -0.1},
    )


@pytest.mark.parametrize("name", NUMBERS)
def test_each_threshold_of_the_spec_is_one_of_the_program_s(name: str) -> None:
    found = merged(None, SanitySpec.model_validate({name: "2.25"}))
    assert found == dataclasses.replace(ml.Sanity(), **{name: 2.25})


def test_every_check_can_be_armed() -> None:
    found = merged(None, SanitySpec(armed=tuple(Check)))
    assert found is not None
    assert found.armed == CHECKS


def test_armed_checks_that_have_nothing_to_look_at_are_named() -> None:
    assert unready(ml.Sanity(armed=CHECKS)).startswith(
        "armed, and with nothing to look at: probe, constant_predictions, metric_floor. "
    )
    assert unready(ml.Sanity(armed=CHECKS, probe=lambda: 1.0, floors={"auc": 0.6})) == ""
    assert unready(ml.Sanity(probe=None)) == ""


def train(job: ml.Job, auc: float, total: int = 1000, **policy: Any) -> ml.Session:
    net = nn.Linear(2, 1)
    opt = torch.optim.SGD(net.parameters(), 0.1)
    policy = {"every_steps": 2, **policy}
    with ml.Session(job, report_every=0, checkpoint=ml.Checkpoints(**policy), net=net, opt=opt) as run:
        for _ in run.steps(total):
            opt.zero_grad()
            net(torch.ones(2)).sum().backward()
            opt.step()
            run.commit(loss=1.0, auc=0.9 if run.step < 3 else auc)
    return run


@pytest.mark.usefixtures("alone")
def test_a_program_that_knows_of_no_checks_ends_with_77_where_its_job_arms_one(
    job: ml.Job, arm: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    arm(armed=["metric_floor"], floors={"auc": "0.6"})
    with pytest.raises(SystemExit) as caught:
        train(job, 0.5)
    assert caught.value.code == 77
    assert "the state is not sane: metric_floor: auc is 0.5, less than 0.6" in capsys.readouterr().err


@pytest.mark.usefixtures("alone")
def test_what_the_spec_does_not_arm_observes(
    job: ml.Job, arm: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    arm(armed=["probe"], floors={"auc": "0.6"})
    assert train(job, 0.5, 8).step == 8
    said = capsys.readouterr().out
    assert "step 8, observed: metric_floor: auc is 0.5" in said
    assert "warning: armed, and with nothing to look at: probe." in said


@pytest.mark.usefixtures("alone")
def test_the_program_s_own_floor_wins(job: ml.Job, arm: Callable[..., None]) -> None:
    arm(armed=["metric_floor"], floors={"auc": "0.6"})
    assert train(job, 0.5, 8, sanity=ml.Sanity(floors={"auc": 0.4})).step == 8
