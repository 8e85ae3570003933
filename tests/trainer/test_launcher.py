"""The launcher end to end: an operator that speaks HTTP, programs that live and die."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rig import DEADLINE, STOP, WAYS, Launcher, until, world

from mlenv.launch.nudges import DEAF_SECONDS
from mlenv_api import names
from mlenv_api.protocol import LauncherPhase, Order

if TYPE_CHECKING:
    from rig import Rig, Server

    from mlenv_api.protocol import Beat

CRASH_ONCE = """
import os, sys
print("attempt", os.environ["MLENV_ATTEMPT"], flush=True)
if os.environ["MLENV_ATTEMPT"] == "1":
    raise ValueError("boom, password=hunter2")
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_phase(server: Server, launcher: Launcher, phase: LauncherPhase, attempt: int) -> Beat:
    return server.wait(
        launcher.pod, lambda b: b.phase is phase and b.attempt == attempt, f"{phase}/{attempt}"
    )


def run_to(server: Server, launcher: Launcher, attempt: int = 1, **shape: int) -> None:
    """Give the world, as an operator does once the launcher waits for it and has a port."""
    server.say(launcher.pod, attempt)
    wait_phase(server, launcher, LauncherPhase.WAITING, attempt)
    server.say(launcher.pod, attempt, world=world(**shape))


@pytest.mark.parametrize("way", WAYS)
def test_a_crash_is_cured_in_place(rig: Rig, server: Server, way: str) -> None:
    (rig.folder / "crash.py").write_text(CRASH_ONCE)
    launcher = rig.launch("crash.py", urls=server.url, way=way)
    run_to(server, launcher)
    failed = wait_phase(server, launcher, LauncherPhase.FAILED, 1)
    (evidence,) = failed.evidence
    assert (evidence.exit_code, evidence.own, evidence.rank, evidence.attempt) == (1, True, 0, 1)
    assert evidence.message == "ValueError: boom, password=***"
    server.say("p0", 2, world=world(), stored_evidence=evidence.sequence)
    done = wait_phase(server, launcher, LauncherPhase.SUCCEEDED, 2)
    assert done.evidence == ()
    server.say("p0", 2, order=STOP)
    assert launcher.exit_code() == 0
    text = launcher.text()
    assert "[a1 r0] attempt 1\n" in text
    assert "[a2 r0] attempt 2\n" in text
    assert "[a1 r0] ValueError: boom, password=hunter2\n" in text
    assert server.errors == []


def test_evidence_is_repeated_until_stored(rig: Rig, server: Server) -> None:
    launcher = rig.launch("sh", "-c", "exit 3", urls=server.url)
    run_to(server, launcher)
    wait_phase(server, launcher, LauncherPhase.FAILED, 1)
    seen = len(server.beats["p0"])
    until(lambda: len(server.beats["p0"]) > seen + 2, "more beats")
    assert [e.sequence for e in server.beats["p0"][-1].evidence] == [1]
    server.say("p0", 1, stored_evidence=1)
    server.wait("p0", lambda b: b.phase is LauncherPhase.FAILED and not b.evidence, "no more evidence")
    server.say("p0", 1, order=STOP)
    assert launcher.exit_code() == 3


LONE = """
import os, subprocess, time
rank = os.environ["LOCAL_RANK"]
with open(f"draft.{rank}", "w") as file:
    file.write(str(os.getpid()))
os.rename(f"draft.{rank}", f"pid.{rank}")
if rank == "1":
    while not os.path.exists("pid.0"):  # or its peer would be ended before it has begun
        time.sleep(0.01)
    os._exit(5)
subprocess.run(["sleep", "600"])
"""


@pytest.mark.parametrize("way", WAYS)
def test_one_failure_ends_the_peers_of_the_node(rig: Rig, server: Server, way: str) -> None:
    (rig.folder / "lone.py").write_text(LONE)
    launcher = rig.launch("lone.py", urls=server.url, index=1, nodes=2, procs=2, way=way)
    run_to(server, launcher, nodes=2, rank=1, procs=2)
    beat = server.wait("p0", lambda b: len(b.evidence) == 2, "both ranks' ends")
    assert [(e.rank, e.local_rank, e.own, e.exit_code, e.signal) for e in beat.evidence] == [
        (3, 1, True, 5, None),
        (2, 0, False, None, "SIGTERM"),
    ]
    assert beat.phase is LauncherPhase.FAILED
    assert not alive(int((rig.folder / "pid.0").read_text()))
    until(lambda: launcher.children().keys() <= {launcher.fork_server()}, "no rank")


@pytest.mark.parametrize("way", WAYS)
def test_a_python_program_saves_at_sigterm(rig: Rig, server: Server, way: str) -> None:
    program = "import os, signal\nsignal.signal(signal.SIGTERM, lambda *_: os._exit(76))\n"
    (rig.folder / "saves.py").write_text(program + "open('up', 'w')\nwhile True: signal.pause()")
    launcher = rig.launch("saves.py", urls=server.url, way=way)
    run_to(server, launcher)
    until((rig.folder / "up").exists, "the program")
    launcher.process.send_signal(signal.SIGTERM)
    assert launcher.exit_code() == 76


@pytest.mark.parametrize(
    ("program", "grace", "code"),
    [
        ("trap 'exit 76' TERM; touch up; sleep 600 & wait", "30", 76),
        ("touch up; exec sleep 600", "30", 143),
        ("trap '' TERM; touch up; while :; do sleep 1; done", "3", 143),
    ],
    ids=["saved", "default", "stubborn"],
)
def test_sigterm(rig: Rig, server: Server, program: str, grace: str, code: int) -> None:
    launcher = rig.launch("sh", "-c", program, urls=server.url, MLENV_TERMINATION_GRACE_SECONDS=grace)
    run_to(server, launcher)
    until((rig.folder / "up").exists, "the program")
    launcher.process.send_signal(signal.SIGTERM)
    assert launcher.exit_code() == code


def test_sigusr1_is_passed_on(rig: Rig, server: Server) -> None:
    # What the signal ends, too, is the sleep: without the last word its end could be the program's.
    program = "trap 'echo got usr1' USR1; touch up; while [ ! -e stop ]; do sleep 0.05; done; exit 0"
    launcher = rig.launch("sh", "-c", program, urls=server.url)
    run_to(server, launcher)
    until((rig.folder / "up").exists, "the program")
    launcher.process.send_signal(signal.SIGUSR1)
    until(lambda: "[a1 r0] got usr1" in launcher.text(), "the signal")
    (rig.folder / "stop").touch()
    wait_phase(server, launcher, LauncherPhase.SUCCEEDED, 1)


def test_drain_exits_76(rig: Rig, server: Server) -> None:
    launcher = rig.launch("sh", "-c", "touch up; exec sleep 600", urls=server.url)
    run_to(server, launcher)
    until((rig.folder / "up").exists, "the program")
    server.say("p0", 1, order=Order.DRAIN)
    assert launcher.exit_code() == 76


@pytest.mark.parametrize(
    ("program", "code", "message"),
    [
        (("no-such-program",), 127, "no-such-program: command not found"),
        (("missing.py",), 127, "missing.py: no such file"),
        (("./plain",), 126, "./plain: cannot be run"),
    ],
)
def test_a_program_that_cannot_be_started(
    rig: Rig, server: Server, program: tuple[str, ...], code: int, message: str
) -> None:
    (rig.folder / "plain").write_bytes(b"\0")
    launcher = rig.launch(*program, urls=server.url)
    run_to(server, launcher)
    (evidence,) = wait_phase(server, launcher, LauncherPhase.FAILED, 1).evidence
    assert (evidence.exit_code, evidence.reason) == (code, "CommandNotFound")
    assert evidence.message.startswith(message)
    server.say("p0", 1, order=STOP)
    assert launcher.exit_code() == code


def test_nothing_survives_into_the_next_attempt(rig: Rig, server: Server) -> None:
    program = (
        "if [ $MLENV_ATTEMPT = 1 ]; then setsid sh -c 'echo $$ > daemon; exec sleep 600' & "
        "while [ ! -s daemon ]; do :; done; exit 1; fi; ls /proc/$PPID/task > /dev/null; sleep 600"
    )
    launcher = rig.launch("sh", "-c", program, urls=server.url)
    run_to(server, launcher)
    server.wait("p0", lambda b: bool(b.evidence), "evidence")
    server.say("p0", 2, world=world())
    wait_phase(server, launcher, LauncherPhase.RUNNING, 2)
    assert not alive(int((rig.folder / "daemon").read_text()))
    until(lambda: len(launcher.children()) == 1, "one rank and no zombie")


def test_orphans_are_reaped_while_ranks_run(rig: Rig, server: Server) -> None:
    program = "for i in 1 2 3; do sh -c 'true & exec true'; done; touch up; exec sleep 600"
    launcher = rig.launch("sh", "-c", program, urls=server.url)
    run_to(server, launcher)
    until((rig.folder / "up").exists, "the program")
    until(lambda: len(launcher.children()) == 1 and "Z" not in launcher.children().values(), "no zombies")


def test_older_orders_are_refused(rig: Rig, server: Server) -> None:
    launcher = rig.launch("sh", "-c", "touch up; exec sleep 600", urls=server.url)
    server.say("p0", 3, term=7, world=world())
    until((rig.folder / "up").exists, "the program")
    for term, attempt in ((6, 4), (7, 2)):
        server.say("p0", attempt, term=term, order=STOP)
        until(lambda t=term: f"refused an answer of term {t}" in launcher.text(), "a refusal")
    beat = server.beats["p0"][-1]
    assert (beat.term, beat.attempt, beat.phase) == (7, 3, LauncherPhase.RUNNING)


def test_a_421_leads_to_the_leader(rig: Rig, server: Server) -> None:
    leader = rig.server()
    server.leader = leader.url
    launcher = rig.launch("true", urls=server.url)
    leader.say("p0", 1, world=world())
    wait_phase(leader, launcher, LauncherPhase.SUCCEEDED, 1)
    assert len(server.beats["p0"]) == 1
    server.leader = None
    server.say("p0", 1, order=STOP)
    leader.close()
    rig.servers.remove(leader)
    assert launcher.exit_code() == 0


def test_the_next_url_is_tried(rig: Rig, server: Server) -> None:
    with closing(socket.socket()) as silent:
        silent.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{silent.getsockname()[1]}"
        launcher = rig.launch("true", urls=f"{dead},{server.url}")
        server.say("p0", 1, world=world())
        wait_phase(server, launcher, LauncherPhase.SUCCEEDED, 1)


def test_ranks_outlive_the_operator(rig: Rig, server: Server) -> None:
    program = "touch up; while [ ! -e stop ]; do sleep 0.05; done; echo oops >&2; exit 9"
    launcher = rig.launch("sh", "-c", program, urls=server.url)
    run_to(server, launcher)
    until((rig.folder / "up").exists, "the program")
    server.close()
    rig.servers.remove(server)
    until(lambda: "no answer from the operator" in launcher.text(), "a word about it")
    assert len(launcher.children()) == 1
    (rig.folder / "stop").touch()
    until(lambda: "failed with exit code 9" in launcher.text(), "the end of the rank")
    back = rig.server(server.port)
    back.say("p0", 1)
    (evidence,) = wait_phase(back, launcher, LauncherPhase.FAILED, 1).evidence
    assert (evidence.exit_code, evidence.message) == (9, "oops")
    until(lambda: "the operator answers again" in launcher.text(), "a word about it")


def test_errors_of_the_operator_are_endured(rig: Rig, server: Server) -> None:
    server.status = 503
    launcher = rig.launch("true", urls=server.url)
    until(lambda: "HTTP 503" in launcher.text(), "a word about it")
    server.status = None
    server.say("p0", 1, world=world())
    wait_phase(server, launcher, LauncherPhase.SUCCEEDED, 1)


def test_a_renewed_token_is_used(rig: Rig, server: Server) -> None:
    launcher = rig.launch("sleep", "600", urls=server.url)
    run_to(server, launcher)
    wait_phase(server, launcher, LauncherPhase.RUNNING, 1)
    launcher.token_file.write_text("renewed\n")
    server.wait("renewed", lambda b: b.attempt == 1, "the new token")


@pytest.mark.parametrize("way", WAYS)
def test_nothing_printed_is_lost(rig: Rig, server: Server, way: str) -> None:
    program = (
        "import sys, os\n"
        "for i in range(20000): sys.stdout.buffer.write(b'%d \\xff\\n' % i)\n"
        "sys.stdout.buffer.write(b'x' * 40000 + b'\\n' + b'last')\n"
        "sys.stdout.flush(); os.kill(os.getpid(), 9)\n"
    )
    (rig.folder / "prints.py").write_text(program)
    launcher = rig.launch("prints.py", urls=server.url, way=way)
    run_to(server, launcher)
    wait_phase(server, launcher, LauncherPhase.FAILED, 1)
    data = launcher.log.read_bytes()
    assert [int(n) for n in re.findall(rb"\[a1 r0\] (\d+) \xff\n", data)] == list(range(20000))
    assert sum(map(len, re.findall(rb"xx+", data))) == 40000
    assert b"[a1 r0] last\n" in data
    assert all(line.startswith((b"[a1 r0] ", b"[mlenv] ")) for line in data.splitlines())


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_nudge_makes_it_ask_now(rig: Rig, server: Server, address: str) -> None:
    launcher = rig.launch("sleep", "600", urls=server.url, MLENV_POD_IP=address)
    run_to(server, launcher)
    server.say("p0", 1, world=world(), next_beat_seconds=300)
    port = wait_phase(server, launcher, LauncherPhase.RUNNING, 1).nudge_port
    assert port is not None
    for attempt in (2, 3):  # the second one comes while it may still be deaf from the first
        server.say("p0", attempt, world=world(), next_beat_seconds=300)
        nudge(address, port)
        wait_phase(server, launcher, LauncherPhase.RUNNING, attempt)


def test_a_flood_of_nudges_is_no_flood_of_beats(rig: Rig, server: Server) -> None:
    launcher = rig.launch("sleep", "600", urls=server.url)
    run_to(server, launcher)
    server.say("p0", 1, world=world(), next_beat_seconds=300)
    port = wait_phase(server, launcher, LauncherPhase.RUNNING, 1).nudge_port
    assert port is not None
    before, begin = len(server.beats["p0"]), time.monotonic()
    for _ in range(20000):
        nudge("127.0.0.1", port, b"x" * 100)
    until(lambda: len(server.beats["p0"]) > before, "a beat")
    beats, seconds = len(server.beats["p0"]) - before, time.monotonic() - begin
    assert beats <= 2 + seconds / DEAF_SECONDS


def nudge(address: str, port: int, data: bytes = b"") -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_DGRAM)) as sender:
        sender.sendto(data, (address, port))


def test_without_an_address_to_listen_on_it_beats_all_the_same(rig: Rig, server: Server) -> None:
    launcher = rig.launch("true", urls=server.url, index=1, nodes=2, MLENV_POD_IP="192.0.2.1")
    server.say("p0", 1, world=world(nodes=2, rank=1))
    assert wait_phase(server, launcher, LauncherPhase.SUCCEEDED, 1).nudge_port is None


def test_progress_travels_with_the_beat(rig: Rig, server: Server) -> None:
    spent = {"init": 41, "dataWait": 7, "time": "2026-11-23T05:06:05.25Z"}
    progress = {"step": 7, "totalSteps": 9, "metrics": {"loss": "NaN"}}
    page = {"attempt": 1, "progress": progress, "spent": spent}
    launcher = rig.launch("sleep", "600", urls=server.url)
    run_to(server, launcher)
    wait_phase(server, launcher, LauncherPhase.RUNNING, 1)
    (launcher.run_dir / "progress.json").write_text(json.dumps(page))
    beat = server.wait("p0", lambda b: b.progress is not None, "progress")
    assert beat.progress is not None
    assert (beat.progress.step, beat.progress.total_steps) == (7, 9)
    assert beat.progress.metrics["loss"] != beat.progress.metrics["loss"]
    assert beat.spent is not None
    assert (beat.spent.init, beat.spent.data_wait, beat.spent.productive) == (41, 7, 0)
    assert b"NaN" not in server.raw[-1].replace(b'"NaN"', b"")
    (launcher.run_dir / "progress.json").write_text("{nonsense")
    server.wait("p0", lambda b: b.progress is None and b.attempt == 1, "a beat without progress")
    assert server.errors == []


def test_ranks_get_torchruns_environment(rig: Rig, server: Server) -> None:
    launcher = rig.launch("env", urls=server.url, index=1, nodes=2, procs=2)
    run_to(server, launcher, attempt=4, nodes=2, rank=1, procs=2, port=4711)
    wait_phase(server, launcher, LauncherPhase.SUCCEEDED, 4)
    found = dict(re.findall(r"^\[a4 r3\] (\w+)=(.*)$", launcher.text(), re.MULTILINE))
    expected = {
        "RANK": "3",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "4",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "1",
        "GROUP_WORLD_SIZE": "2",
        "NODE_RANK": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "4711",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "4",
        "TORCHELASTIC_RUN_ID": "uid-1",
        "OMP_NUM_THREADS": "1",
        names.ENV_ATTEMPT: "4",
    }
    assert {name: found.get(name) for name in expected} == expected


def test_alone_it_runs_once_and_exits_with_the_programs_code(rig: Rig) -> None:
    process, log = rig.start(["--", "sh", "-c", "echo $RANK/$WORLD_SIZE; exit 4"], "alone", {})
    assert process.wait(DEADLINE) == 4
    assert "[a1 r0] 0/1\n" in log.read_text()


def test_ctrl_c_ends_it(rig: Rig) -> None:
    process, _ = rig.start(["sh", "-c", "touch up; exec sleep 600"], "alone", {})
    until((rig.folder / "up").exists, "the program")
    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE) == 130


def test_usage(rig: Rig) -> None:
    process, log = rig.start(["--nproc-per-node", "zero", "x"], "usage", {})
    assert process.wait(DEADLINE) == 64
    assert "--nproc-per-node wants a number" in log.read_text()


def test_pid_1_imports_no_torch() -> None:
    code = (
        "import sys, mlenv, mlenv.launch.__main__, mlenv.launch.loop\n"
        "assert not {'torch', 'numpy', 'asyncio'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_it_is_small(rig: Rig, server: Server) -> None:
    launcher = rig.launch("sleep", "600", urls=server.url)
    run_to(server, launcher)
    wait_phase(server, launcher, LauncherPhase.RUNNING, 1)
    status = Path(f"/proc/{launcher.process.pid}/status").read_text()
    (kilobytes,) = re.findall(r"VmRSS:\s+(\d+) kB", status)
    assert int(kilobytes) < 80_000
