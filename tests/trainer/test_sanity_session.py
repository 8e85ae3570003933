"""A Session whose checkpoints are looked at: what is sealed, what is gone on from, when it ends with 77."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import mlenv as ml
from mlenv.ckpt import seal
from mlenv.sanity.rules import CHECKS

pytestmark = pytest.mark.usefixtures("alone")


def train(job: ml.Job, total: int, sanity: ml.Sanity, collapse: int = 0, **more: Any) -> ml.Session:
    """A table whose rows all become alike after step `collapse`."""
    torch.manual_seed(1)
    net = nn.Embedding(100, 8)
    opt = torch.optim.SGD(net.parameters(), 0.01)
    checkpoint = ml.Checkpoints(every_steps=2, sanity=sanity, **more)
    with ml.Session(job, report_every=0, checkpoint=checkpoint, net=net, opt=opt) as run:
        for _ in run.steps(total):
            opt.zero_grad()
            net.weight.square().mean().backward()  # type: ignore[no-untyped-call, unused-ignore]
            opt.step()
            if run.step + 1 == collapse:
                with torch.no_grad():
                    net.weight.copy_(net.weight[:1].expand(100, 8))
            run.commit(loss=1.0)
    return run


def seals(job: ml.Job) -> dict[int, seal.Seal]:
    found = [seal.parse(one.read_bytes()) for one in job.run_dir.glob("checkpoints/step-*/SEAL.json")]
    return {one.step: one for one in found}


ARMED = ml.Sanity(armed=("embedding_collapse",))


def test_armed_it_ends_with_77_and_goes_on_from_the_newest_sane_one(
    job: ml.Job, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        train(job, 1000, ARMED, collapse=5)
    assert caught.value.code == 77
    said = capsys.readouterr()
    assert (
        "the checkpoint of step 6 is not sane (1 in a row): embedding_collapse: rows of net.weight"
        in said.out
    )
    assert "mlenv: the state is not sane: embedding_collapse" in said.err
    assert "Exit code 77, to go back to the checkpoint of step 4" in said.err
    found = seals(job)
    assert found[4].good
    newest = found[max(found)]
    assert not newest.good
    assert newest.insane[0].startswith("embedding_collapse: rows of net.weight are alike")
    train(job, 8, ARMED)
    said = capsys.readouterr()
    assert "goes on from step 4" in said.out
    assert "is passed over: it is not sane" in said.out


def test_unarmed_it_only_observes(job: ml.Job, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(job, 8, ml.Sanity(), collapse=5)
    assert run.step == 8
    assert "step 8, observed: embedding_collapse" in capsys.readouterr().out
    newest = seals(job)[8]
    assert newest.good
    assert newest.insane == ()
    assert newest.remarks[0].startswith("embedding_collapse")
    train(job, 10, ml.Sanity(), collapse=5)
    assert "goes on from step 8" in capsys.readouterr().out


def test_the_last_sane_ones_stay(job: ml.Job) -> None:
    train(job, 20, ARMED, collapse=9, rollback_after=None)
    found = seals(job)
    assert [step for step in sorted(found) if found[step].good] == [6, 8]


def test_none_of_what_is_well_is_refused(job: ml.Job) -> None:
    train(job, 8, ml.Sanity(armed=CHECKS))
    assert all(one.good and not one.remarks for one in seals(job).values())


def test_where_none_was_ever_sane_a_person_decides(job: ml.Job, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        train(job, 1000, ARMED, collapse=1)
    assert caught.value.code == 77
    assert "to go back to a person, as no checkpoint was sane" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        train(job, 8, ARMED)
    assert caught.value.code == 78
    assert "it is not sane" in capsys.readouterr().err
    run = train(job, 1000, ml.Sanity(), nonfinite="allow")
    assert run.step == 1000
