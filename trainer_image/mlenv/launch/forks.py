"""The launcher's side of the fork server: ranks in milliseconds, instead of the seconds that imports take.

Whatever it cannot do is done by starting a new Python, and why is said once.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from mlenv.launch import config, programs
from mlenv.launch.children import CannotStartError, Child, Pipes, attach, spawn, writer
from mlenv_api import names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mlenv.launch.config import Config
    from mlenv.launch.programs import Program

BOOT: Final = (
    "import sys; before = frozenset(sys.modules); sys.flags.safe_path or sys.path.pop(0); "
    "from mlenv.forkserver import main; main(before, int(sys.argv[1]))"
)
"""What the server runs. The working directory is not looked at for imports: a program's need not be in it."""
ANSWER_SECONDS: Final = 10.0
"""A server that takes longer to fork is ended: starting a Python takes no longer."""
AT_ONCE: Final = 64
"""Ranks in one order: a message takes 253 descriptors."""
FIRST_DELAY: Final = 1.0
LAST_DELAY: Final = 300.0


def offered(
    cfg: Config, env: Mapping[str, str], pipes: Pipes, say: Callable[[str], None]
) -> ForkServer | str:
    """A fork server for what this launcher runs; else why not (nothing, when there is no second attempt)."""
    if not cfg.urls:
        return ""
    if not cfg.fork:
        return f"{names.ENV_FORK_SERVER} says so"
    program = programs.parse(cfg.program, env, sys.executable)
    if isinstance(program, str):
        return program
    why = programs.too_small(config.memory(), cfg.procs)
    return why or ForkServer(pipes, program, config.base_env(env, config.cpus(), cfg.procs), say)


class ForkServer:
    """The process that has torch imported; started again, ever later, should it end."""

    def __init__(
        self, pipes: Pipes, program: Program, env: Mapping[str, str], say: Callable[[str], None]
    ) -> None:
        self._pipes = pipes
        self._say = say
        self._program = program
        self._env = env
        self._child: Child | None = None
        self._socket: socket.socket | None = None
        self._failures = 0
        self.ready = False
        self.unusable = ""
        """Why it will never be of use."""

    @property
    def pid(self) -> int | None:
        """Its process, to be spared when ranks are cleared away."""
        return self._child.pid if self._child else None

    @property
    def importing(self) -> bool:
        """Whether it will be ready soon: a new Python would have to import the same."""
        return self._child is not None and self._failures == 0 and not (self.ready or self.unusable)

    def start(self) -> None:
        """Start the process; it is ready some seconds later."""
        ours, theirs = socket.socketpair()
        argv = [sys.executable, "-c", BOOT, str(theirs.fileno())]
        try:
            child = spawn(argv, self._env, keep=(theirs.fileno(),))
        except CannotStartError as error:
            self.unusable = str(error)
            ours.close()
            return
        finally:
            theirs.close()
        attach(self._pipes, child, self._listen, writer(2, b"[fork server] "))
        self._child, self._socket = child, ours

    def ended(self, code: int) -> float | None:
        """Its process is gone. Seconds until it should be started again; None when it should not."""
        assert self._child is not None
        self._child.reaped(code)
        self._pipes.finish(self._child)
        self._child, self.ready = None, False
        if self._socket:
            self._socket.close()
        self._failures += 1
        return None if self.unusable else min(LAST_DELAY, FIRST_DELAY * 2.0 ** min(self._failures - 1, 16))

    def fork(
        self, envs: Sequence[Mapping[str, str]], started: Callable[[int, Child], None]
    ) -> tuple[tuple[int, ...], str]:
        """Fork one rank for each of `envs`. Which are left to be started in another way, and why.

        `started` is told of each, by its place in `envs`, before it runs a line of the program.
        """
        why = self._refusal(envs)
        for first in range(0, len(envs), AT_ONCE):
            batch = range(first, min(first + AT_ONCE, len(envs)))
            why = why or self._fork(batch, envs, started)
            if why:
                return tuple(range(first, len(envs))), why
        return (), ""

    def _refusal(self, envs: Sequence[Mapping[str, str]]) -> str:
        if self.unusable:
            return self.unusable
        if not self.ready:
            return "the fork server is still importing" if self._child else "the fork server has died"
        if self._program.script and not os.access(self._program.script, os.R_OK):
            return f"{self._program.script} cannot be read"
        return next((why for env in envs if (why := programs.unlike(self._env, env))), "")

    def _fork(
        self, batch: range, envs: Sequence[Mapping[str, str]], started: Callable[[int, Child], None]
    ) -> str:
        offers = [_Offer() for _ in batch]
        deadline = time.monotonic() + ANSWER_SECONDS
        try:
            why = self._order([envs[i] for i in batch], offers, deadline)
            if why:
                return why
            pids = [offer.report(deadline) for offer in offers]
            for index, offer, pid in zip(batch, offers, pids, strict=True):
                started(index, offer.accept(pid))
            for offer in offers:
                offer.go()
        except (OSError, ValueError) as error:
            self._give_up()
            return f"the fork server did not answer ({type(error).__name__}: {error})"
        finally:
            for offer in offers:
                offer.close()
        self._failures = 0
        return ""

    def _order(self, envs: list[Mapping[str, str]], offers: list[_Offer], deadline: float) -> str:
        """Ask for the ranks; why the server refuses."""
        assert self._socket is not None
        order = {"program": asdict(self._program), "launcher": os.getpid(), "ranks": envs}
        with _file(order) as fd:
            self._socket.settimeout(max(0.1, deadline - time.monotonic()))
            socket.send_fds(self._socket, [b"F"], [fd, *(fd for offer in offers for fd in offer.theirs)])
        for offer in offers:
            offer.hand_over()
        line = self._socket.recv(4096)
        return str(json.loads(line)["refusal"])

    def _give_up(self) -> None:
        """End a server that is dead or stuck. A rank that it still makes finds nobody who lets it run."""
        self.ready = False
        if self._child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child.pid, signal.SIGKILL)

    def _listen(self, lines: list[bytes]) -> None:
        for line in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                said: dict[str, Any] = json.loads(line)
                self.unusable = str(said.get("unusable", ""))
                self.ready = "ready" in said
                if self.ready:
                    self._say("the fork server is ready: ranks are forked from now on")


class _Offer:
    """The pipes of a rank to be, and the socket over which it reports."""

    def __init__(self) -> None:
        self._control, control = socket.socketpair()
        self._out, out = os.pipe()
        self._err, err = os.pipe()
        self.theirs = [out, err, control.detach()]

    def hand_over(self) -> None:
        """The server has its own copies: with ours open, no pipe would ever end."""
        while self.theirs:
            os.close(self.theirs.pop())

    def report(self, deadline: float) -> int:
        """The process id. Raises OSError or ValueError when there is no such process."""
        self._control.settimeout(max(0.1, deadline - time.monotonic()))
        data = self._control.recv(4)
        if len(data) < 4:
            raise ValueError("a rank ended before it began")
        return int.from_bytes(data, "little")

    def accept(self, pid: int) -> Child:
        """The rank, which from now on owns the pipes."""
        child = Child(pid, self._out, self._err)
        self._out = self._err = -1
        return child

    def go(self) -> None:
        """Let it run. One that was killed meanwhile is reaped like any other."""
        with contextlib.suppress(OSError):
            self._control.send(b"G")

    def close(self) -> None:
        """What nobody owns goes."""
        self.hand_over()
        self._control.close()
        for fd in (self._out, self._err):
            if fd >= 0:
                os.close(fd)


@contextlib.contextmanager
def _file(content: Any) -> Any:
    """A descriptor of a file in memory: an environment may be larger than a message."""
    fd = os.memfd_create("ranks")
    try:
        with os.fdopen(os.dup(fd), "w") as file:
            json.dump(content, file)
        yield fd
    finally:
        os.close(fd)
