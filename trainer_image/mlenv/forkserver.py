"""The process from which a launcher forks its ranks: Python with torch imported, and nothing ever computed.

A child of the launcher, which orders over a socket. It imports a fixed list and nothing else: one parallel
tensor operation here would hang every rank, one CUDA query would poison it. Each rank becomes a child of the
launcher, because the process between the two ends at once. Before it runs anything it waits for a byte from
the launcher, which then knows its process id: no end of a rank is ever missed.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlenv.launch.procs import die_with_parent
from mlenv.launch.programs import Program

PRELOAD: Final = (
    "torch",
    "torch.distributed",
    "mlenv.dist",
    "mlenv.session",
    "mlenv.program",
    # The first optimizer imports it, which takes longer than all the rest.
    "torch._dynamo",
    "torch.distributed.checkpoint",
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.fsdp",
    "torch.utils.data",
    "torch.utils.serialization",
)
STDOUT, STDERR, CONTROL = 1, 2, 3
"""A rank's descriptors, beside its standard input; the last one is closed before the program runs."""
MAX_FDS: Final = 253
"""As many descriptors as Linux takes in one message."""
ADOPTION_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Rank:
    """What a forked process is to become."""

    program: Program
    env: dict[str, str]


def main(before: frozenset[str], fd: int) -> None:
    """Serve until the launcher is gone; in a rank, run its program. `before`: modules that any Python has."""
    die_with_parent()
    try:
        for name in PRELOAD:
            importlib.import_module(name)
    except Exception as error:  # noqa: BLE001  (whatever is wrong with this torch, ranks still run without us)
        _tell(unusable=f"{name} cannot be imported: {type(error).__name__}: {error}"[:500])
        return
    _entitle()
    gc.collect()
    gc.freeze()  # collections in ranks would touch, and so copy, every page that they share
    _settle()
    server = socket.socket(fileno=fd)
    _tell(ready=threads())
    rank = _serve(server, _names(before))
    from mlenv import program  # noqa: PLC0415  (it is on the list above)

    program.prepare(rank.program, rank.env)
    program.run(rank.program)


def _entitle() -> None:
    """Show what this is, and prepare for titles of ranks while the environment is where the kernel put it."""
    import setproctitle  # noqa: PLC0415  (mlenv.program, on the list above, needs it)

    setproctitle.setproctitle("mlenv: fork server")


def _tell(**what: Any) -> None:
    print(json.dumps(what), flush=True)  # noqa: T201  (standard output is read by the launcher)


def threads() -> int:
    """Threads of this process, whoever started them."""
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208  (a count is all we want)


def _settle() -> None:
    """OpenBLAS starts its threads when numpy is imported, and ends them, until they are needed, at a fork."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _names(before: frozenset[str]) -> frozenset[str]:
    """Names that a program's own folder could have meant by something else than what is imported here."""
    return frozenset(name.partition(".")[0] for name in set(sys.modules) - before) - set(
        sys.builtin_module_names
    )


def _serve(server: socket.socket, imported: frozenset[str]) -> Rank:
    """Obey orders until the launcher is gone. Returns in every rank, and in ranks only."""
    while True:
        kind, fds, _, _ = socket.recv_fds(server, 1, MAX_FDS)
        if not kind:
            os._exit(0)
        order = _read(fds[0])
        program = Program(**order["program"])
        refusal = _refusal(program, imported)
        server.sendall(json.dumps({"refusal": refusal}).encode() + b"\n")
        if not refusal and (rank := _fork(server, program, order, fds[1:])):
            return rank
        for fd in fds:
            os.close(fd)


def _read(fd: int) -> Any:
    with os.fdopen(os.dup(fd), "rb") as file:
        file.seek(0)
        return json.loads(file.read())


def _refusal(program: Program, imported: frozenset[str]) -> str:
    if (count := threads()) > 1:
        return f"the fork server has {count} threads: a fork of it might hang"
    from mlenv import program as programs  # noqa: PLC0415

    hidden = shadowed(Path(programs.folder(program)), imported)
    if hidden:
        return f"{hidden} would not be imported: the fork server has another module of this name"
    return ""


def shadowed(folder: Path, imported: frozenset[str]) -> str:
    """A module in `folder` with the name of one that is `imported` from elsewhere; empty if there is none."""
    with suppress(OSError):
        for entry in os.scandir(folder):
            name = entry.name.partition(".")[0]
            if name in imported and _is_module(Path(entry.path)) and not _is_itself(name, folder):
                return entry.path
    return ""


def _is_module(path: Path) -> bool:
    return path.suffix in (".py", ".pyc", ".so") or (path / "__init__.py").exists()


def _is_itself(name: str, folder: Path) -> bool:
    origin = getattr(sys.modules.get(name), "__file__", None)
    return origin is not None and Path(origin).resolve().is_relative_to(folder.resolve())


def _fork(server: socket.socket, program: Program, order: dict[str, Any], fds: list[int]) -> Rank | None:
    """Fork all ranks of an order; a Rank in each of them, when it may run."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    between = os.fork()
    if between:
        os.waitpid(between, 0)
        return None
    try:
        for index, env in enumerate(order["ranks"]):
            if os.fork() == 0:
                server.detach()  # its number will be another file's
                _become(fds[3 * index : 3 * index + 3], order["launcher"])
                return Rank(program, env)
    except OSError as error:
        sys.stderr.write(f"cannot fork: {error}\n")
    os._exit(0)


def _become(fds: list[int], launcher: int) -> None:
    """Cut all ties with the server, report to the launcher, and wait until it has taken notice."""
    os.setsid()
    for fd, target in zip(fds, (STDOUT, STDERR, CONTROL), strict=True):
        os.dup2(fd, target)
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  (names are all we want)
        if int(name) > CONTROL:
            with suppress(OSError):  # the one that listed them
                os.close(int(name))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        os.write(CONTROL, os.getpid().to_bytes(4, "little"))
        told = os.read(CONTROL, 1)
    except OSError:
        told = b""
    if not told:
        os._exit(0)  # the launcher has given up on us, and started this rank in another way
    os.close(CONTROL)
    _be_adopted(launcher)


def _be_adopted(launcher: int) -> None:
    """Die with the launcher from here on; it becomes our parent as soon as the process between has ended."""
    deadline = time.monotonic() + ADOPTION_SECONDS
    while os.getppid() != launcher and time.monotonic() < deadline:
        time.sleep(0.0005)
    die_with_parent()
    if os.getppid() != launcher:
        os._exit(1)


if __name__ == "__main__":
    raise SystemExit("this is started by mlenv.launch")
