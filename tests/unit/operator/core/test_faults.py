from __future__ import annotations

from typing import Any

import pytest
from worlds import ago, ended_pod, evidence, heard, pod, raw_job, raw_status, scene, stamp, world

from mlenv_api.protocol import LauncherPhase
from mlenv_operator.core.faults import Fault, Kind, faults
from mlenv_operator.core.world import NodeView


def root(*pods: Any, **changes: Any) -> Fault:
    return faults(scene(world(*pods, **changes)))[0]


def test_a_gang_that_runs_has_no_fault() -> None:
    assert faults(scene(world(pod(0), pod(1), beats={0: heard(), 1: heard()}))) == ()


@pytest.mark.parametrize(
    ("what", "reason", "counted", "fatal"),
    [
        ({"exit_code": 1}, "ProgramFailed", True, False),
        ({"exit_code": 75}, "ProgramFailed", True, False),
        ({"exit_code": 77}, "RolledBack", True, False),
        ({"exit_code": 76}, "Preempted", False, False),
        ({"exit_code": 78}, "DoNotRetry", True, True),
        ({"exit_code": None, "signal": "SIGKILL"}, "ProgramFailed", True, False),
        ({"exit_code": None, "signal": "SIGKILL", "reason": "OutOfMemory"}, "OutOfMemory", True, False),
        ({"exit_code": 127, "reason": "CommandNotFound"}, "CommandNotFound", True, True),
        ({"exit_code": 1, "rank": -1}, "ProgramFailed", True, False),
    ],
)
def test_evidence_of_a_launcher(what: Any, reason: str, *, counted: bool, fatal: bool) -> None:
    found = root(pod(0), pod(1), beats={1: heard(evidence(**what))})
    assert (found.reason, found.counted, found.fatal, found.index) == (reason, counted, fatal, 1)


@pytest.mark.parametrize(
    ("ended", "reason", "counted", "fatal"),
    [
        ({"exit_code": 1}, "ProgramFailed", True, False),
        ({"exit_code": 76}, "Preempted", False, False),
        ({"exit_code": 78}, "DoNotRetry", True, True),
        ({"exit_code": 137, "reason": "OOMKilled"}, "OutOfMemory", True, False),
        (
            {
                "exit_code": 128,
                "reason": "StartError",
                "message": 'exec: "nope": executable file not found in $PATH',
            },
            "CommandNotFound",
            True,
            True,
        ),
        ({"exit_code": 128, "reason": "StartError", "message": "OCI hook"}, "LauncherFailed", True, False),
    ],
)
def test_the_end_of_a_pod(ended: Any, reason: str, *, counted: bool, fatal: bool) -> None:
    found = root(ended_pod(0, **ended), pod(1))
    assert (found.reason, found.counted, found.fatal, found.index) == (reason, counted, fatal, 0)


@pytest.mark.parametrize("reason", ["Evicted", "NodeShutdown", "OutOfcpu", "UnexpectedAdmissionError"])
def test_a_pod_that_its_node_ends_is_not_the_programs_fault(reason: str) -> None:
    found = root(pod(0, phase="Failed", status={"reason": reason, "message": "disk pressure"}), pod(1))
    assert (found.reason, found.counted) == ("PodEvicted", False)
    assert "disk pressure" in found.message


@pytest.mark.parametrize(
    ("by", "reason"), [("PreemptionByScheduler", "Preempted"), ("EvictionByEvictionAPI", "PodEvicted")]
)
def test_a_disruption_is_known_by_its_condition(by: str, reason: str) -> None:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": by, "message": "make room"}
    found = root(pod(0, conditions=[condition], deletionTimestamp=stamp(ago(0))), pod(1))
    assert (found.reason, found.counted) == (reason, False)


def test_a_disruption_that_has_not_begun_is_no_fault() -> None:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
    assert faults(scene(world(pod(0, conditions=[condition]), pod(1)))) == ()


def test_a_missing_pod_is_a_fault_only_in_a_world() -> None:
    assert root(pod(0)).reason == "PodLost"
    assembling = raw_job(status=raw_status("Assembling"))
    assert faults(scene(world(pod(0), job=assembling))) == ()


def test_a_node_that_left_takes_its_pod_after_a_grace() -> None:
    early = {"n1": NodeView("n1", ready=False, gone=True, since=ago(9))}
    late = {"n1": NodeView("n1", ready=False, gone=True, since=ago(10))}
    assert faults(scene(world(pod(0), pod(1), nodes=early))) == ()
    assert root(pod(0), pod(1), nodes=late).reason == "NodeLost"


def test_the_earliest_own_fault_is_the_root() -> None:
    beats = {0: heard(evidence(time=ago(3))), 1: heard(evidence(time=ago(4), rank=1))}
    assert root(pod(0), pod(1), beats=beats).index == 1


def test_times_are_corrected_by_the_offset_of_the_launchers_clock() -> None:
    """Slot 1's clock is an hour ahead: what it calls later was earlier."""
    ahead = heard(evidence(time=ago(-3596)), time=ago(-3599))
    beats = {0: heard(evidence(time=ago(3))), 1: ahead}
    assert root(pod(0), pod(1), beats=beats).index == 1


def test_at_one_moment_the_first_slot_is_the_root() -> None:
    beats = {1: heard(evidence()), 0: heard(evidence())}
    assert root(pod(0), pod(1), beats=beats).index == 0


@pytest.mark.parametrize(
    "message",
    [
        "Connection reset by peer",
        "RuntimeError: NCCL communicator was aborted",
        "gloo: timed out",
        "Broken pipe",
    ],
)
def test_the_loss_of_a_peer_comes_after_its_cause(message: str) -> None:
    beats = {
        0: heard(evidence(time=ago(9), message=message)),
        1: heard(evidence(time=ago(1), message="ValueError")),
    }
    found = faults(scene(world(pod(0), pod(1), beats=beats)))
    assert [(one.index, one.kind) for one in found] == [(1, Kind.ROOT), (0, Kind.PEER)]


def test_a_deletion_before_a_crash_is_the_root() -> None:
    deleted = pod(0, deletionTimestamp=stamp(ago(-20)), deletionGracePeriodSeconds=30)
    found = root(deleted, pod(1), beats={1: heard(evidence(time=ago(4)))})
    assert (found.reason, found.index, found.counted) == ("PodLost", 0, False)


def test_a_crash_before_a_deletion_is_the_root() -> None:
    deleted = pod(0, deletionTimestamp=stamp(ago(-29)), deletionGracePeriodSeconds=30)
    found = root(deleted, pod(1), beats={1: heard(evidence(time=ago(4)))})
    assert (found.reason, found.index) == ("ProgramFailed", 1)


def test_what_the_launcher_ended_itself_is_no_cause() -> None:
    assert faults(scene(world(pod(0), pod(1), beats={0: heard(evidence(own=False))}))) == ()


def test_evidence_of_another_attempt_is_old() -> None:
    job = raw_job(status=raw_status("Assembling", attempt={"number": 2}))
    beats = {0: heard(evidence(), phase=LauncherPhase.FAILED), 1: heard(attempt=2)}
    assert faults(scene(world(pod(0), pod(1), job=job, beats=beats))) == ()


def test_a_new_launchers_evidence_counts_from_the_beginning_of_the_attempt() -> None:
    old = heard(evidence(attempt=0, time=ago(200), rank=-1), attempt=0)
    new = heard(evidence(attempt=0, time=ago(50), rank=-1), attempt=0)
    job = raw_job(status=raw_status("Assembling", since=100))
    assert faults(scene(world(pod(0), pod(1), job=job, beats={0: old}))) == ()
    assert root(pod(0), pod(1), job=job, beats={0: new}).index == 0


def test_a_launcher_that_fails_without_a_word_is_believed() -> None:
    found = root(pod(0), pod(1), beats={0: heard(phase=LauncherPhase.FAILED)})
    assert found.reason == "ProgramFailed"
    assert "did not say why" in found.message


@pytest.mark.parametrize("protocol", [0, 2, 999])
def test_a_launcher_of_an_unknown_protocol_is_not_believed(protocol: int) -> None:
    assert faults(scene(world(pod(0), pod(1), beats={0: heard(evidence(), protocol=protocol)}))) == ()


def test_a_launcher_that_is_not_in_the_image_is_told_from_a_program_that_is_not() -> None:
    said = "runc create failed: unable to start container process: exec: python3: executable file not found"
    late = ended_pod(0, 128, reason="StartError", message=f"{said}: unknown")
    found = root(late, job=raw_job(status=raw_status("Assembling", nodes=1), trainer={"numNodes": 1}))
    assert found.reason == "CommandNotFound"
    assert "launcher cannot be started in pod ranker-0-0 on node n1: exec: python3: exec" in found.message
    assert "not found. Use an image that contains Python and mlenv" in found.message


def test_a_slot_that_succeeded_cannot_fail_any_more() -> None:
    beats = {0: heard(phase=LauncherPhase.SUCCEEDED), 1: heard()}
    deleted = pod(0, deletionTimestamp=stamp(ago(0)))
    assert faults(scene(world(deleted, pod(1), beats=beats))) == ()


def test_an_exit_with_0_on_being_told_to_end_is_no_success() -> None:
    state = {"terminated": {"exitCode": 0, "finishedAt": stamp(ago(1))}}
    told = pod(0, phase="Succeeded", state=state, deletionTimestamp=stamp(ago(5)))
    job = raw_job(status=raw_status("Running", attempt={"rendezvous": None}), launcher="None")
    assert root(told, pod(1), job=job).reason == "PodLost"


def test_a_launcher_that_ends_before_the_world_is_formed_is_a_fault() -> None:
    job = raw_job(status=raw_status("Assembling"))
    found = root(ended_pod(0, 0), pod(1), job=job)
    assert found.reason == "LauncherFailed"
    assert "before the world was formed" in found.message


def test_messages_name_place_and_remedy_and_hide_secrets() -> None:
    said = "ValueError: bad token=abcdef123 in https://me:hunter2@host/x"
    found = root(pod(0), pod(1), beats={1: heard(evidence(rank=3, message=said))})
    assert found.message == (
        "rank 3 in pod ranker-1-0 on node n2 ended with exit code 1: ValueError: bad token=*** in"
        " https://me:***@host/x. See: kubectl logs -n ns ranker-1-0"
    )


def test_exit_code_127_of_a_shell_gets_a_hint() -> None:
    job = raw_job(status=raw_status("Running", attempt={"rendezvous": None}), launcher="None")
    assert "a command was not found" in root(ended_pod(0, 127), pod(1), job=job).message


def test_a_signal_is_named() -> None:
    job = raw_job(status=raw_status("Running", attempt={"rendezvous": None}), launcher="None")
    assert "was killed by SIGSEGV" in root(ended_pod(0, 139), pod(1), job=job).message


def dying(exit_code: int) -> Any:
    """Its program has ended; its kubelet has not come to tell of the pod yet."""
    return pod(0, phase="Running", state={"terminated": {"exitCode": exit_code, "finishedAt": stamp(ago(1))}})


def test_a_program_that_ended_badly_is_a_fault_before_its_pod_has_failed() -> None:
    found = root(dying(1), pod(1))
    assert (found.reason, found.index, found.exit_code) == ("ProgramFailed", 0, 1)


def test_a_program_that_ended_well_is_none_until_its_pod_says_how() -> None:
    assert faults(scene(world(dying(0), pod(1)))) == ()
