"""Jobs that die and go on from their checkpoints: launchers, ranks and signals are real."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
from typing import TYPE_CHECKING, Any

import pytest
from datasets import steps_of, world_of
from gangs import STEPS, Gang, witness
from rig import DEADLINE, Rig, until

from mlenv.data import merge

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rig import Launcher, Server


def damage(checkpoint: Path) -> None:
    for file in checkpoint.glob("replica-*/*.distcp"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, Any]]]:
    rig = Rig(tmp_path_factory.mktemp("undisturbed"))
    gang = Gang(rig, rig.server())
    gang.start()
    yield gang.until_done()
    rig.close()


def rows(launcher: Launcher) -> list[tuple[int, int]]:
    lines = (launcher.run_dir / "metrics.jsonl").read_text().splitlines()
    return [(row["attempt"], row["step"]) for row in map(json.loads, lines)]


@pytest.mark.slow
@pytest.mark.parametrize("lost", [None, 0, 1])
def test_a_killed_gang_goes_on_and_ends_as_if_nothing_had_been(
    rig: Rig, server: Server, undisturbed: list[dict[str, Any]], lost: int | None
) -> None:
    step = random.randrange(11, STEPS)
    gang = Gang(rig, server, DIE=f"1:1:{step}")
    gang.start()
    gang.until_failed()
    assert "fresh start at step 0 (no checkpoint in" in gang.text()
    if lost is not None:
        shutil.rmtree(gang.folder(lost))  # as in a new pod
    gang.start()
    ends = gang.until_done()
    start = gang.went_on_from()
    assert 0 < start <= step
    origin = server.origins["p", 2].checkpoint
    assert origin is not None
    assert (origin.attempt, origin.step) == (1, start)
    assert all(any(b.sealed == origin for b in server.beats[pod]) for pod in ("p0", "p1"))
    assert not any(b.origin for b in server.beats["p1"])
    assert [end["weights"] for end in ends] == [end["weights"] for end in undisturbed]
    assert witness(ends) == witness(undisturbed)
    assert [(e["step"], e["samples"], e["epoch"]) for e in ends] == [(STEPS, 24 * STEPS, 1)] * 2
    # Nothing lost, nothing twice; and the metrics say which attempt made which step.
    plain = steps_of(world_of(rig.folder / "set", 1, batch=24, lanes=6, tail="carry"))
    assert gang.ids(1, upto=start) + gang.ids(2) == [next(plain) for _ in range(STEPS)]
    second = [number for attempt, number in rows(gang.launchers[0]) if attempt == 2]
    assert sorted(set(second)) == list(range(start + 1, STEPS + 1))
    told = [b.progress.step for b in server.beats["p0"] if b.attempt == 2 and b.progress is not None]
    assert min(told) >= start


@pytest.mark.slow
def test_four_ranks_end_bit_for_bit(rig: Rig, server: Server) -> None:
    whole = Gang(rig, server, "u", procs=2)
    whole.start()
    wanted = whole.until_done()
    gang = Gang(rig, server, procs=2, DIE="1:3:13")
    gang.start()
    gang.until_failed()
    gang.start()
    ends = gang.until_done()
    assert gang.went_on_from() in (5, 10)
    assert [end["weights"] for end in ends] == [end["weights"] for end in wanted]
    assert witness(ends) == witness(wanted)


@pytest.mark.slow
def test_one_rank_goes_on_where_two_were(rig: Rig, server: Server) -> None:
    gang = Gang(rig, server, DIE="1:1:14")
    gang.start()
    gang.until_failed()
    gang.start(nodes=1)
    (end,) = gang.until_done(nodes=1)
    start = gang.went_on_from()
    assert "saved by 2 rank(s)" in gang.text()
    plain = steps_of(world_of(rig.folder / "set", 1, batch=24, lanes=6, tail="carry"))
    assert gang.ids(1, upto=start) + gang.ids(2) == [next(plain) for _ in range(STEPS)]
    (again,) = world_of(rig.folder / "set", 1, batch=24, lanes=6, tail="carry")
    again.load_state_dict(merge([end["data"]]))
    assert again.expected_witness() == witness([end])


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over_and_none_is_no_fresh_start(
    rig: Rig, server: Server, undisturbed: list[dict[str, Any]]
) -> None:
    gang = Gang(rig, server, DIE="1:1:17", SETTLED="1")
    gang.start()
    for pod in range(2):
        gang.until_failed(pod)  # nobody writes any more
    before = gang.sealed(0)
    assert len(before) >= 2
    for pod in range(2):
        damage(gang.folder(pod) / before[-1].name)
    gang.start()
    ends = gang.until_done()
    assert f"{before[-1].name} is passed over" in gang.text()
    assert gang.went_on_from() == int(before[-2].name[5:17])
    assert [end["weights"] for end in ends] == [end["weights"] for end in undisturbed]

    for pod in range(2):
        for one in gang.sealed(pod):
            damage(one)
        server.say(f"p{pod}", 2, stored_evidence=9)
    gang.start()
    gang.until_failed(0)
    beat = server.wait("p0", lambda b: b.attempt == 3 and bool(b.evidence), "evidence")
    assert beat.evidence[0].exit_code == 78
    assert "nothing is started afresh over a past" in beat.evidence[0].message


@pytest.mark.slow
def test_without_a_checkpoint_it_starts_again_and_says_so(rig: Rig, server: Server) -> None:
    gang = Gang(rig, server, EVERY="100", DIE="1:1:7")
    gang.start()
    gang.until_failed()
    gang.start()
    gang.until_done()
    assert re.search(r"attempt 2, .*fresh start at step 0 \(no checkpoint in ", gang.text())
    assert [len(one) for one in gang.ids(2)] == [24] * STEPS


@pytest.mark.slow
def test_a_folder_that_cannot_be_read_is_tried_again_and_never_a_fresh_start(
    rig: Rig, server: Server
) -> None:
    gang = Gang(rig, server)
    gang.folder(1).write_text("a file where a folder should be")
    gang.start()
    gang.until_failed(1)
    beat = server.wait("p1", lambda b: bool(b.evidence), "evidence")
    assert beat.evidence[0].exit_code == 75
    assert "there can be no checkpoints in" in beat.evidence[0].message


@pytest.mark.slow
@pytest.mark.parametrize("every", ["1s", "100000"])
def test_all_save_at_the_same_step_by_the_clock_and_when_one_pod_is_told_to_stop(
    rig: Rig, server: Server, every: str
) -> None:
    gang = Gang(rig, server, STEPS="100000", SLOWLY="1", EVERY=every)
    gang.start()
    server.wait("p0", lambda b: b.progress is not None and b.progress.step > 20, "progress")
    if every == "1s":
        until(lambda: len(gang.sealed(0)) == len(gang.sealed(1)) == 2, "two checkpoints by the clock")
    gang.launchers[1].process.send_signal(signal.SIGTERM)
    assert gang.launchers[1].exit_code() == 76
    gang.until_failed(0)
    beat = server.wait("p0", lambda b: bool(b.evidence), "evidence")
    assert beat.evidence[0].exit_code == 76
    sealed = [[one.name for one in gang.sealed(pod)] for pod in range(2)]
    assert sealed[0] == sealed[1]
    assert len(sealed[0]) == (2 if every == "1s" else 1)
    assert until(lambda: "told to stop at step" in gang.text(), "the last line")
    assert f"told to stop at step {int(sealed[0][-1][5:17])}" in gang.text()


LOCAL = """
import sys

import torch

import mlenv as ml

job = ml.init()
net = ml.wrap(torch.nn.Linear(1, 1))
folder = sys.argv[1] if len(sys.argv) > 1 else None
with ml.Session(job, checkpoint=ml.Checkpoints(every_steps=2, folder=folder), net=net) as run:
    for _ in run.steps(run.step + 3):
        net(torch.ones(1, 1)).sum().backward()
        run.commit()
"""


@pytest.mark.slow
def test_outside_of_a_cluster_ranks_share_a_folder(rig: Rig) -> None:
    (rig.folder / "local.py").write_text(LOCAL)
    for name, more in (("first", ()), ("second", ("kept",)), ("third", ("kept",))):
        process, log = rig.start(["--nproc-per-node", "2", "local.py", *more], name, {})
        assert process.wait(DEADLINE) == 0, log.read_text()
    assert [one.name for one in rig.folder.glob("mlenv-runs/*/checkpoints/*")] == ["step-000000000002.a1"]
    assert "goes on from step 2" in log.read_text()
    assert sorted(one.name for one in (rig.folder / "kept").iterdir()) == [
        "step-000000000002.a1",
        "step-000000000004.a2",
    ]
