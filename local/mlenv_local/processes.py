"""Starting and ending what a cluster is made of: machines (sets of namespaces) and components inside them."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

from mlenv_local.errors import ComponentError, LocalError
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
    namespace,
    program,
)
from mlenv_local.shell import SYSTEM_PATH, run, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from mlenv_local.components import Component
    from mlenv_local.layout import Layout, Machine

MACHINE_START_SECONDS = 20
KILL_SECONDS = 30


class Processes:
    """The processes of one cluster, started through its journal."""

    def __init__(self, layout: Layout, binaries: Path) -> None:
        self.layout = layout
        self.binaries = binaries
        self.journal = Journal(layout.journal)

    def start_machines(self, machines: Iterable[Machine]) -> list[Machine]:
        """Start those that don't run; return them when their first process waits."""
        missing = [m for m in machines if not self.machine_runs(m)]
        for machine in missing:
            self.kill_machine(machine)  # what is left of it, or is still dying
            machine.logs.mkdir(parents=True, exist_ok=True)
            (machine.run / "ready").unlink(missing_ok=True)
            argv = ("unshare", *_UNSHARE, "--", "sh", str(machine.root / "init.sh"))
            self._spawn(machine.name, argv, machine.logs / "init.log")
        for machine in missing:
            self._await_machine(machine)
        return missing

    def _await_machine(self, machine: Machine) -> None:
        if not wait_until(lambda: self._has_settled(machine), seconds=MACHINE_START_SECONDS, interval=0.02):
            raise self._failure(machine.name, "did not start in time", machine.logs / "init.log")
        if not (machine.run / "ready").exists():
            raise self._failure(machine.name, "could not start", machine.logs / "init.log")
        entry = self.journal.read(machine.name)
        assert entry is not None
        assert entry.process is not None
        init = identify(children(entry.process.pid)[0])
        self.journal.write(Entry(_init(machine), ("init",), init))

    def _has_settled(self, machine: Machine) -> bool:
        return (machine.run / "ready").exists() or not self.runs(machine.name)

    def machine_runs(self, machine: Machine) -> bool:
        """Whether the machine's namespaces are there; a dying first process outlives them."""
        entry = self.journal.read(_init(machine))
        if entry is None or entry.process is None or not is_alive(entry.process):
            return False
        return bool(namespace(entry.process.pid, "net"))

    def machine_pid(self, machine: Machine) -> int:
        """The first process of the machine, as the host numbers it."""
        entry = self.journal.read(_init(machine))
        if entry is None or entry.process is None or not is_alive(entry.process):
            raise LocalError(f"Machine {machine.name} of cluster {self.layout.name!r} is not running.")
        return entry.process.pid

    def inside(self, machine: Machine, argv: Sequence[str]) -> tuple[str, ...]:
        """Return the command that runs `argv` inside the machine."""
        return ("nsenter", f"--target={self.machine_pid(machine)}", *_ENTER, "--", *argv)

    def run_inside(self, machine: Machine, argv: Sequence[str], stdin: str | None = None) -> str:
        """Run a command inside the machine and return its standard output."""
        return run(self.inside(machine, argv), stdin=stdin)

    def start(self, component: Component) -> None:
        """Start a component unless it runs."""
        if not self.runs(component.name):
            component.log.parent.mkdir(parents=True, exist_ok=True)
            self._spawn(component.name, self.inside(component.machine, component.argv), component.log)

    def runs(self, name: str) -> bool:
        """Whether the process of that journal entry is alive."""
        entry = self.journal.read(name)
        if entry is None or entry.process is None:
            return False
        _reap(entry.process.pid)
        return is_alive(entry.process)

    def require(self, component: Component) -> None:
        """Raise ComponentError unless the component runs."""
        if not self.runs(component.name):
            raise self._failure(component.name, "died", component.log)

    def kill(self, name: str, sig: signal.Signals = signal.SIGKILL) -> None:
        """Signal a component and wait until it is gone."""
        entry = self.journal.read(name)
        if entry is None or entry.process is None or not is_alive(entry.process):
            return
        # The journal knows `nsenter`, which ends with its child and with the child's code.
        targets = [i for i in map(identify, children(entry.process.pid)) if i] or [entry.process]
        signal_and_wait(targets, sig)
        signal_and_wait([entry.process], signal.SIGKILL)

    def kill_machine(self, machine: Machine) -> None:
        """Cut the machine's power: the kernel ends everything inside once its first process is killed."""
        entries = [self.journal.read(_init(machine)), self.journal.read(machine.name)]
        signal_and_wait([e.process for e in entries if e and e.process], signal.SIGKILL)
        inside = [e.name for e in self.journal.entries() if e.name.startswith(f"{machine.name}/")]
        for name in (machine.name, *inside):
            self.journal.forget(name)

    def _spawn(self, name: str, argv: Sequence[str], log: Path) -> None:
        self._end_announced(name)
        self.journal.write(Entry(name, tuple(argv)))
        environment = {
            "PATH": f"{self.binaries}:{SYSTEM_PATH}",
            "HOME": "/root",
            "GOGC": "200",  # memory is cheaper here than the two cores that everything shares
            MARKER: str(self.layout.root),
            NAME_MARKER: name,
        }
        pid = os.posix_spawnp(
            argv[0],
            list(argv),
            environment,
            setsid=True,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
                *((os.POSIX_SPAWN_CLOSE, fd) for fd in _inherited()),
            ],
        )
        self.journal.write(Entry(name, tuple(argv), identify(pid)))

    def _end_announced(self, name: str) -> None:
        """End what was started under that name by a tool that died before it could write the number down."""
        entry = self.journal.read(name)
        if entry is None or entry.process is not None:
            return
        wrappers = [pid for pid in marked(self.layout.root, name) if program(pid) == entry.argv[0]]
        pids = [child for pid in wrappers for child in children(pid)] + wrappers
        signal_and_wait([i for i in map(identify, pids) if i], signal.SIGKILL)

    def _failure(self, name: str, problem: str, log: Path) -> ComponentError:
        return ComponentError(name, problem, log, tail(log, 15))


_UNSHARE = (
    *("--mount", "--propagation=slave", "--net", "--uts", "--ipc", "--pid"),
    *("--fork", "--kill-child=SIGKILL", "--mount-proc"),
)
_ENTER = ("--mount", "--net", "--uts", "--ipc", "--pid")


def _init(machine: Machine) -> str:
    return f"{machine.name}/init"


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def signal_and_wait(processes: Sequence[ProcessId], sig: signal.Signals) -> None:
    """Signal exactly these processes and wait until they are gone."""
    for process in processes:
        if is_alive(process):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, sig)

    def gone() -> bool:
        for process in processes:
            _reap(process.pid)
        return not any(is_alive(process) for process in processes)

    if not wait_until(gone, seconds=KILL_SECONDS, interval=0.02):
        left = ", ".join(str(p.pid) for p in processes if is_alive(p))
        raise LocalError(f"Processes {left} did not end within {KILL_SECONDS} s of {sig.name}.")


def tail(log: Path, lines: int) -> list[str]:
    """The last lines of a file; none if there is no file. Reads at most 64 KiB."""
    if not log.exists():
        return []
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 65536))
        return file.read().decode(errors="replace").splitlines()[-lines:]


def _inherited() -> list[int]:
    """What a caller has open for its children: a daemon that got a lock would hold it for its life."""
    found = [int(name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208  (numbers are all we want)
    return [fd for fd in found if fd > 2 and _is_inherited(fd)]


def _is_inherited(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:  # the one that listed them
        return False
