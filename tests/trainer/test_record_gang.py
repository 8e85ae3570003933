"""What an attempt runs from is recorded before it makes a step: launchers, ranks and signals are real."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from rig import DEADLINE, STOP, Rig, until, world

from mlenv_api.protocol import Beat, Checkpoint, LauncherPhase, Order, Origin

if TYPE_CHECKING:
    from pathlib import Path

    from rig import Server

    from mlenv_api.protocol import Evidence

PROGRAM = """
import os
import time
from pathlib import Path

import torch

import mlenv as ml

job = ml.init()
torch.manual_seed(job.attempt)
net = torch.nn.Linear(int(os.environ.get("WIDTH", "2")), 1)
opt = torch.optim.Adam(net.parameters(), 0.1)
while "GATE" in os.environ and not Path(os.environ["GATE"]).exists():
    time.sleep(0.01)
for number in range(int(os.environ.get("SESSIONS", "1"))):
    more = {"checkpoint": ml.Checkpoints(every_steps=2, folder=f"second-{job.attempt}")} if number else {}
    with ml.Session(job, report_every=0, net=net, opt=opt, data=[torch.ones(2)] * 3, **more) as run:
        print("began", run.step, run.samples, run.epoch, net.weight.tolist(), len(opt.state), flush=True)
        for batch in run.steps(int(os.environ.get("STEPS", "6"))):
            opt.zero_grad()
            net(torch.ones(net.in_features)).sum().backward()
            opt.step()
            run.commit()
            if "SLOWLY" in os.environ:
                time.sleep(0.01)
            if f"{job.attempt}:{run.step}" in os.environ.get("DIE", "").split():
                run._keeper._ck.wait()
                raise SystemExit(9)
        print("ended", net.weight.tolist(), flush=True)
"""
PAST = Checkpoint(attempt=1, step=70, digest="a" * 64)
pytestmark = pytest.mark.slow


class One:
    """A job of one rank."""

    def __init__(self, rig: Rig, server: Server, pod: str = "p0", **env: Any) -> None:
        self.server, self.pod = server, pod
        script = rig.folder / "record.py"
        script.write_text(PROGRAM)
        spec = env.pop("spec", {"intervalSteps": 2})
        variables = {"MLENV_CHECKPOINT": json.dumps(spec), **env}
        self.launcher = rig.launch(str(script), urls=server.url, pod=pod, **variables)

    def start(self, attempt: int = 1, **more: Any) -> None:
        self.attempt = attempt
        self.server.say(self.pod, attempt, stored_evidence=9, **more)
        self.until(LauncherPhase.WAITING)
        self.server.say(self.pod, attempt, world=world(), **more)

    def until(self, phase: LauncherPhase) -> Beat:
        def matches(beat: Beat) -> bool:
            return beat.attempt == self.attempt and beat.phase is phase

        return self.server.wait(self.pod, matches, f"{phase} in {self.attempt}")

    def done(self) -> None:
        self.until(LauncherPhase.SUCCEEDED)

    def failure(self) -> Evidence:
        self.until(LauncherPhase.FAILED)
        return self.server.wait(
            self.pod, lambda b: any(e.attempt == self.attempt for e in b.evidence), "evidence"
        ).evidence[-1]

    @property
    def origin(self) -> Origin | None:
        return self.server.origins.get((self.server.job(self.pod), self.attempt))

    @property
    def text(self) -> str:
        return self.launcher.text()

    def said(self, what: str) -> list[str]:
        return re.findall(rf"\[a{self.attempt} r0\] {what} (.*)", self.text)

    def sealed(self) -> list[Path]:
        return sorted(one.parent for one in self.launcher.run_dir.glob("checkpoints/step-*/SEAL.json"))


def test_a_killed_job_goes_on_from_what_is_recorded(rig: Rig, server: Server) -> None:
    one = One(rig, server, DIE="1:5")
    one.start()
    one.failure()
    assert one.origin == Origin()
    told = until(lambda: server.sealed.get("p"), "the seal")
    assert (told.attempt, told.step) == (1, 4)
    one.start(2)
    one.done()
    assert one.origin == Origin(checkpoint=told)
    assert one.said("began")[0].startswith("4 ")
    until(lambda: server.sealed["p"].step == 6, "the last seal")
    assert server.sealed["p"].attempt == 2
    assert server.errors == []


def test_who_would_run_from_something_else_ends(rig: Rig, server: Server) -> None:
    one = One(rig, server)
    server.origins["p", 1] = Origin(checkpoint=PAST)
    one.start()
    found = one.failure()
    assert found.exit_code == 75
    assert "somebody else speaks for attempt 1" in found.message
    assert one.said("began") == []


def test_of_two_who_claim_one_attempt_one_runs(rig: Rig, server: Server) -> None:
    first, second = One(rig, server, DIE="1:5"), One(rig, server, "p0-b", SLOWLY="1")
    first.start()
    first.failure()
    until(lambda: "p" in server.sealed, "the seal")
    for one in (first, second):
        one.start(2)
    ends = (LauncherPhase.SUCCEEDED, LauncherPhase.FAILED)
    for one in (first, second):
        server.wait(one.pod, lambda b: b.attempt == 2 and b.phase in ends, "the end")
    ran = [one for one in (first, second) if one.said("began")]
    assert len(ran) == 1
    (other,) = {first, second} - set(ran)
    assert other.failure().exit_code == 75


def test_no_step_is_made_while_the_operator_is_away(rig: Rig, server: Server) -> None:
    gate = rig.folder / "gate"
    one = One(rig, server, GATE=str(gate))
    one.start()
    one.until(LauncherPhase.RUNNING)
    server.status = 503
    gate.touch()
    until(lambda: "waits for the operator to record that it runs from a fresh start" in one.text, "the line")
    assert one.said("began") == []
    server.status = None
    one.done()
    assert one.origin == Origin()


def test_an_empty_shared_folder_is_no_fresh_start_over_a_past(rig: Rig, server: Server) -> None:
    one = One(rig, server, MLENV_SPOOL=str(rig.folder / "spool"))
    one.start(2, past=PAST)
    found = one.failure()
    assert found.exit_code == 78
    assert "of attempt 1 at step 70 is recorded for this job, but" in found.message
    assert one.origin is None
    # Somebody asks for a new start: what attempts before saved counts no more.
    one.start(3, past=PAST, since_attempt=3)
    one.done()
    assert one.origin == Origin()
    assert [path.name for path in sorted((rig.folder / "spool" / "checkpoints").iterdir())] == [
        "step-000000000004.a3",
        "step-000000000006.a3",
    ]


def test_folders_that_go_with_their_pods_cost_steps_and_it_is_said(rig: Rig, server: Server) -> None:
    one = One(rig, server)
    one.start(2, past=PAST)
    one.done()
    assert one.origin == Origin(lost=True)
    assert one.text.count("warning: the checkpoints of this job went with their pods: 70 steps are lost") == 1


def test_ceiling_and_since_bound_what_is_used_and_what_is_deleted(rig: Rig, server: Server) -> None:
    one = One(rig, server, DIE="1:5 2:5 3:3")
    one.start()
    one.failure()
    one.start(2, ceiling_step=3)
    one.failure()
    assert one.origin is not None
    assert one.origin.checkpoint is not None
    assert (one.origin.checkpoint.attempt, one.origin.checkpoint.step) == (1, 2)
    one.start(3, since_attempt=3)  # policy: Never
    one.failure()
    assert one.origin == Origin()
    assert "fresh start at step 0 (no checkpoint in" in one.text
    one.start(4, since_attempt=3)
    one.done()
    assert one.origin is not None
    assert one.origin.checkpoint is not None
    assert (one.origin.checkpoint.attempt, one.origin.checkpoint.step) == (3, 2)
    assert "step-000000000004.a2" in [path.name for path in one.sealed()]


def test_required_fails_without_a_checkpoint(rig: Rig, server: Server) -> None:
    one = One(rig, server, spec={"resume": {"policy": "Required"}})
    one.start()
    found = one.failure()
    assert found.exit_code == 78
    assert "resume.policy: Required, and" in found.message
    assert "holds no checkpoint, nor does spec.checkpoint.resume.from name one" in found.message


def test_from_takes_all_or_what_is_named_and_starts_at_step_0(rig: Rig, server: Server) -> None:
    one = One(rig, server)
    one.start()
    one.done()
    source = one.sealed()[-1]
    (weights,) = one.said("ended")
    resume = {"policy": "From", "from": str(source)}
    cases = (("q0", {}, 2), ("r0", {"things": ["net"]}, 0), ("s0", {"policy": "Required"}, 2))
    for pod, more, moments in cases:
        other = One(rig, server, pod, spec={"intervalSteps": 2, "resume": {**resume, **more}}, DIE="1:3")
        other.start()
        other.failure()
        assert other.said("began") == [f"0 0 0 {weights} {moments}"]
        assert other.origin is not None
        assert other.origin.checkpoint is not None
        assert other.origin.checkpoint.step == 0
        assert other.origin.checkpoint.digest[:12] not in ("", "a" * 12)
        other.start(2)
        other.done()
        assert other.said("began")[0].startswith("2 ")  # its own, from then on


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"from": "/nowhere/step-000000000006.a1"}, "there is no such folder"),
        ({"from": "/nowhere/best"}, "best is no name of a checkpoint"),
        ({"things": ["optimizer"]}, "names optimizer, and the Session has net, opt, data"),
        ({"things": ["opt"]}, "opt cannot be taken without the model"),
        ({}, r"net.weight: shape \(1, 2\) in the checkpoint, \(1, 3\) in the model"),
    ],
)
def test_from_what_cannot_be_used_is_no_fresh_start(
    rig: Rig, server: Server, wrong: dict[str, Any], why: str
) -> None:
    one = One(rig, server)
    one.start()
    one.done()
    resume = {"policy": "From", "from": str(one.sealed()[-1]), **wrong}
    other = One(rig, server, "q0", spec={"resume": resume}, WIDTH="3")
    other.start()
    found = other.failure()
    assert found.exit_code == 78
    assert re.search(why, found.message), found.message
    assert other.origin is None


def test_an_ordered_checkpoint_is_taken_once(rig: Rig, server: Server) -> None:
    one = One(rig, server, spec={"intervalSteps": 1000000}, STEPS="1000000", SLOWLY="1")
    one.start()
    for number in (1, 2):
        one.server.say("p0", 1, world=world(), order=Order.CHECKPOINT)
        until(lambda number=number: len(one.sealed()) == number, f"checkpoint {number}")  # type: ignore[misc]
        seen = len(server.beats["p0"])
        one.server.say("p0", 1, world=world())
        until(lambda seen=seen: len(server.beats["p0"]) > seen + 2, "the answers")  # type: ignore[misc]
    assert one.text.count("the operator ordered a checkpoint") == 2
    one.server.say("p0", 1, order=STOP)
    one.launcher.exit_code()


def test_a_second_session_of_a_program_proposes_nothing(rig: Rig, server: Server) -> None:
    one = One(rig, server, SESSIONS="2", DIE="1:5")
    one.start()
    one.failure()
    one.start(2)
    one.done()
    assert len(one.said("began")) == 2
    until(lambda: server.sealed["p"].step == 6, "the last seal")
    assert one.origin is not None
    assert one.origin.checkpoint is not None
    assert one.origin.checkpoint.step == 4


def test_a_launcher_alone_is_its_own_record(rig: Rig) -> None:
    (rig.folder / "record.py").write_text(PROGRAM)
    env = {"MLENV_RUN_DIR": str(rig.folder / "run"), "MLENV_JOB_UID": "uid-1"}
    env["MLENV_CHECKPOINT"] = json.dumps({"intervalSteps": 2})
    for number in (1, 2):
        process, log = rig.start(["--nproc-per-node", "2", "record.py"], f"alone-{number}", env)
        assert process.wait(DEADLINE) == 0, log.read_text()
    assert json.loads((rig.folder / "run" / "origin.json").read_text())["attempt"] == 1
    sealed = [one.name for one in (rig.folder / "run" / "checkpoints").iterdir()]
    assert "step-000000000006.a1" in sealed
    assert "goes on from step 6, saved by attempt 1" in log.read_text()
