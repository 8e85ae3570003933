from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from mlenv_local.journal import (
    MARKER,
    NAME_MARKER,
    Entry,
    Journal,
    ProcessId,
    children,
    identify,
    is_alive,
    marked,
    parse_stat,
    program,
)
from mlenv_local.layout import Layout
from mlenv_local.processes import Processes
from mlenv_local.shell import wait_until


def test_a_name_with_spaces_and_brackets_does_not_shift_the_fields() -> None:
    tail = " ".join(str(n) for n in range(4, 53))
    assert parse_stat(f"12 (a) b (c)) S 3 {tail}") == ("S", 3, 19, 21)


def test_entries_survive_the_disk(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    announced = Entry("node-1/kubelet", ("kubelet", "--v=1"))
    started = replace(announced, process=ProcessId(1, 2, "boot"))
    assert journal.entries() == []
    assert journal.read("node-1/kubelet") is None
    journal.write(announced)
    assert journal.entries() == [announced]
    journal.write(started)
    assert journal.read("node-1/kubelet") == started
    journal.forget("node-1/kubelet")
    journal.forget("node-1/kubelet")
    assert journal.entries() == []


def test_a_recycled_number_is_a_stranger() -> None:
    me = identify(os.getpid())
    assert me is not None
    assert is_alive(me)
    assert not is_alive(replace(me, start=me.start + 1))
    assert not is_alive(replace(me, boot="another"))
    assert not is_alive(None)


def test_the_dead_and_zombies_are_nobody() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert identify(process.pid) is None  # a zombie: nobody has collected it yet
    process.wait()
    assert identify(process.pid) is None


def test_a_process_lives_as_long_as_any_of_its_threads() -> None:
    code = (
        "import ctypes, threading; threading.Thread(target=input).start(); ctypes.CDLL(None).pthread_exit(0)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        stat = Path(f"/proc/{process.pid}/stat")
        assert wait_until(lambda: parse_stat(stat.read_text()).state == "Z", seconds=60)
        assert identify(process.pid) is not None
        assert process.pid in children(os.getpid())
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert identify(process.pid) is None


def test_a_marked_process_is_found_by_its_whole_root(tmp_path: Path) -> None:
    root = tmp_path / "demo"
    environment = {MARKER: str(root), NAME_MARKER: "etcd", "PATH": os.environ["PATH"]}
    with subprocess.Popen(["sleep", "60"], env=environment) as process:
        try:
            assert process.pid in children(os.getpid())
            assert marked(root) == [process.pid]
            assert marked(root, "etcd") == [process.pid]
            assert marked(root, "etc") == []
            assert program(process.pid) == "sleep"
            assert marked(tmp_path / "dem") == []
            assert marked(tmp_path / "demo-2") == []
        finally:
            process.kill()


def test_a_daemon_holds_nothing_that_its_starter_has_open(tmp_path: Path) -> None:
    layout = Layout("demo", slot=0, node_count=1, state=tmp_path)
    layout.journal.mkdir(parents=True)
    processes = Processes(layout, tmp_path)
    with (tmp_path / "lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), True)  # noqa: FBT003  (the os module's signature)
        processes._spawn("sleeper", ["sleep", "60"], tmp_path / "log")
        entry = processes.journal.read("sleeper")
        assert entry is not None
        assert entry.process is not None
        pid = entry.process.pid
        try:
            held = {str(one.readlink()) for one in Path(f"/proc/{pid}/fd").iterdir()}
            assert held == {"/dev/null", str(tmp_path / "log")}
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
