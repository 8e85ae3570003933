"""The shell around `core`: one thread, one selector, real processes, signals and alarms."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlenv import record
from mlenv.launch import alone, config, core, procs
from mlenv.launch.beats import Beats
from mlenv.launch.children import CannotStartError, Child, Pipes, attach, spawn, writer
from mlenv.launch.events import (
    Answered,
    Beat,
    CancelTimer,
    Clear,
    Command,
    Event,
    Exit,
    OpenStore,
    RankEnded,
    Say,
    SetTimer,
    Signal,
    Signalled,
    Start,
    StoreBound,
    Timer,
    TimeUp,
)
from mlenv.launch.forks import ForkServer, offered
from mlenv.launch.nudges import DEAF_SECONDS, Nudges
from mlenv.launch.store import Stores, free_port

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlenv.launch.config import Config
    from mlenv_api.protocol import Answer

FORWARDED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
RESTART_STORE: Final = "restart-store"
LISTEN: Final = "listen"
HEAR_RANKS: Final = "hear-ranks"
RESTART_FORKS: Final = "restart-fork-server"
START_ANYWAY: Final = "start-anyway"
IMPORT_SECONDS: Final = 30.0
"""A fork server that is still importing after so long is not waited for any more."""
STORE_SECONDS: Final = 5.0
TERMINATION_LOG: Final = Path("/dev/termination-log")
_ENDS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)


class Loop:
    """One launcher's life."""

    def __init__(self, cfg: Config) -> None:
        self._cfg = cfg
        self._setup = core.Setup(grace=cfg.grace)
        self._state = core.State()
        self._pipes = Pipes()
        self._ranks: dict[int, tuple[int, Child]] = {}
        """By process id: the local rank, and its process."""
        self._gone: list[Child] = []
        """Ended, but their pipes may still be held by what they left behind."""
        self._timers: dict[str, float] = {}
        self._events: deque[Event] = deque()
        self._inbox: queue.SimpleQueue[Answered | Say] = queue.SimpleQueue()
        self._wake_read, self._wake_write = socket.socketpair()
        self._beats: Beats | None = None
        self._nudges: Nudges | None = None
        self._pokes = Nudges(self._pipes.selector, "127.0.0.1")
        """From ranks that wrote a page which matters."""
        self._written: record.Stored | None = None
        self._stores: Stores | None = None
        self._forks: ForkServer | None = None
        self._waiting: Start | None = None
        """Ranks to be started once the fork server has imported what they would have to import themselves."""
        self._said: set[str] = set()
        """Why ranks were not forked: each reason is worth one line."""
        self._local: Answer | None = None
        self._exit: int | None = None

    def run(self) -> int:
        """Live; the exit code."""
        procs.adopt_orphans()
        self._listen_to_signals()
        self._begin()
        while self._exit is None:
            self._wait()
            self._react()
        self._finish()
        return self._exit

    # -- start and end

    def _listen_to_signals(self) -> None:
        for end in (self._wake_read, self._wake_write):
            end.setblocking(False)  # noqa: FBT003  (the socket module's signature)
        self._pipes.selector.register(self._wake_read, 1, None)
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        for number in (*FORWARDED, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)

    def _begin(self) -> None:
        cfg = self._cfg
        if cfg.run_dir:
            try:
                cfg.run_dir.mkdir(parents=True, exist_ok=True)
                record.clear(cfg.run_dir)
            except OSError as error:
                self._say(f"no progress will be told: {cfg.run_dir} cannot be made ({error})")
        if cfg.urls:
            self._nudges = Nudges(self._pipes.selector, cfg.address)
            self._beats = Beats(cfg.urls, cfg.token_file, cfg.run_dir, self._tell, self._nudges.port)
            self._beats.start()
        if cfg.index == 0 and not cfg.alone:
            self._stores = Stores(self._pipes, cfg.address, self._events.append)
            self._stores.start()
        self._begin_forks()
        self._open_store(0)
        self._react()

    def _begin_forks(self) -> None:
        server = offered(self._cfg, os.environ, self._pipes, self._say)
        if isinstance(server, ForkServer):
            self._forks = server
            server.start()
        else:
            self._explain(server)

    def _finish(self) -> None:
        if self._beats:
            self._beats.close()
        self._clear(spared=frozenset())
        if os.getpid() == 1 and self._state.cause:
            # kubectl describe pod shows it as the container's last message.
            with contextlib.suppress(OSError):
                TERMINATION_LOG.write_text(self._state.cause)

    def _tell(self, what: Answered | Say) -> None:
        """From the thread of the beats."""
        self._inbox.put(what)
        with contextlib.suppress(OSError):
            self._wake_write.send(b"\0")

    # -- what happened

    def _wait(self) -> None:
        now = time.monotonic()
        first = min(self._timers.values(), default=None)
        for key, _ in self._pipes.selector.select(None if first is None else max(0.0, first - now)):
            if key.data is None:
                self._woken()
            elif isinstance(key.data, Nudges):
                self._nudged(key.data)
            elif key.data.fd >= 0:  # what another event of this round has not closed
                self._pipes.pump(key.data)
        if self._waiting and self._forks and not self._forks.importing:
            self._start_waiting()
        self._ring()

    def _nudged(self, nudges: Nudges) -> None:
        nudges.heard()
        listen = HEAR_RANKS if nudges is self._pokes else LISTEN
        self._timers[listen] = time.monotonic() + DEAF_SECONDS
        if self._beats:
            self._beats.post(self._state, now=True)
        else:
            self._answer_myself()

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for number in self._wake_read.recv(4096):
                if number in FORWARDED:
                    self._events.append(Signalled(number))
        while not self._inbox.empty():
            what = self._inbox.get()
            if isinstance(what, Say):
                self._say(what.text)
            else:
                self._events.append(what)
        for pid, code in procs.ended():
            self._reaped(pid, code)

    def _reaped(self, pid: int, code: int) -> None:
        if pid in self._ranks:
            local_rank, child = self._ranks.pop(pid)
            child.reaped(code)
            self._pipes.drain(child)
            self._gone.append(child)
            self._events.append(
                RankEnded(local_rank, code, datetime.now(UTC), child.tail.cause() if code else "")
            )
        elif self._stores and pid == self._stores.pid:
            delay = 0.0 if self._stores.ended(code) else STORE_SECONDS
            self._timers[RESTART_STORE] = time.monotonic() + delay
        elif self._forks and pid == self._forks.pid:
            again = self._forks.ended(code)
            if again is not None and self._exit is None:  # else it was ended, with all else
                self._say(f"the fork server ended with code {code}; it is started again in {again:.0f} s")
                self._timers[RESTART_FORKS] = time.monotonic() + again

    def _ring(self) -> None:
        now = time.monotonic()
        for name in [name for name, when in self._timers.items() if when <= now]:
            del self._timers[name]
            if name == RESTART_STORE and self._stores:
                self._stores.start()
            elif name == LISTEN and self._nudges:
                self._nudges.listen()
            elif name == HEAR_RANKS:
                self._pokes.listen()
                if not self._beats:
                    self._answer_myself()
            elif name == RESTART_FORKS and self._forks:
                self._forks.start()
            elif name == START_ANYWAY:
                self._start_waiting()
            else:
                self._events.append(TimeUp(Timer(name)))

    # -- what to do about it

    def _react(self) -> None:
        while self._events and self._exit is None:
            self._state, commands = core.step(self._setup, self._state, self._events.popleft())
            if self._beats:
                self._beats.post(self._state, now=any(isinstance(c, Beat) for c in commands))
            self._write_record()
            for command in commands:
                self._do(command)
            if not self._cfg.urls:
                self._answer_myself()

    def _answer_myself(self) -> None:
        run_dir = self._cfg.run_dir
        proposed = record.told(run_dir, self._state.attempt).origin if run_dir else None
        answer = alone.answer(self._state, self._cfg.procs, self._cfg.address, proposed)
        if answer != self._local:
            self._local = answer
            self._events.append(Answered(answer))

    def _write_record(self) -> None:
        """What ranks wait for; where the disk does not take it, the next answer tries again."""
        wanted = core.stored(self._state)
        if wanted is None or self._cfg.run_dir is None:
            return
        wanted = wanted.model_copy(update={"port": self._pokes.port})
        if wanted == self._written:
            return
        try:
            record.write(self._cfg.run_dir, record.STORED, wanted)
            self._written = wanted
        except OSError as error:
            self._say(f"ranks are not told what is stored: {self._cfg.run_dir} takes no file ({error})")

    def _do(self, command: Command) -> None:
        match command:
            case Start():
                self._start(command)
            case Signal(number):
                self._signal(number)
            case Clear():
                self._clear(self._spared())
            case OpenStore(store):
                self._open_store(store)
            case SetTimer() | CancelTimer():
                self._set(command)
            case Say(text):
                self._say(text)
            case Exit(code):
                self._exit = code
            case Beat():
                pass  # posted before any command runs, so that starting ranks does not delay it

    def _set(self, command: SetTimer | CancelTimer) -> None:
        if isinstance(command, SetTimer):
            self._timers[command.timer] = time.monotonic() + command.seconds
        else:
            self._timers.pop(command.timer, None)

    def _open_store(self, store: int) -> None:
        if self._cfg.alone:
            self._events.append(StoreBound(store, free_port(self._cfg.address)))
        elif self._stores and store > 0:  # the first one comes with its process
            self._stores.open(store)

    def _signal(self, number: int) -> None:
        waiting = self._waiting
        if waiting and number in _ENDS:
            self._waiting = None
            now = datetime.now(UTC)
            ranks = range(waiting.world.num_proc_per_node)
            self._events.extend(RankEnded(local_rank, -number, now) for local_rank in ranks)
        for pid in list(self._ranks):
            procs.signal_group(pid, number)

    def _start(self, command: Start) -> None:
        self._waiting = command
        if self._forks and self._forks.importing:
            self._timers[START_ANYWAY] = time.monotonic() + IMPORT_SECONDS
        else:
            self._start_waiting()

    def _start_waiting(self) -> None:
        command, self._waiting = self._waiting, None
        self._timers.pop(START_ANYWAY, None)
        if command:
            self._start_now(command)

    def _start_now(self, command: Start) -> None:
        world = command.world
        shape = config.RankShape(
            world.num_nodes,
            world.node_rank,
            world.num_proc_per_node,
            world.master_addr,
            world.master_port,
            config.cpus(),
            command.known,
        )
        self._say(
            f"attempt {command.attempt}: node {world.node_rank} of {world.num_nodes}, "
            f"{world.num_proc_per_node} rank(s), store at {world.master_addr}:{world.master_port}"
        )
        envs = [
            config.rank_env(self._cfg, os.environ, command.attempt, local_rank, shape)
            for local_rank in range(world.num_proc_per_node)
        ]
        left = self._start_by_fork(command.attempt, envs)
        while left:
            try:
                child = spawn(self._cfg.program, envs[left[0]])
            except CannotStartError as error:
                self._say(str(error))
                self._not_started(left, error)
                return
            self._started(command.attempt, left.pop(0), child)

    def _start_by_fork(self, attempt: int, envs: list[dict[str, str]]) -> list[int]:
        """The local ranks that have to be started in another way."""
        if self._forks is None:
            return list(range(len(envs)))
        left, why = self._forks.fork(envs, lambda rank, child: self._started(attempt, rank, child))
        self._explain(why)
        return list(left)

    def _started(self, attempt: int, local_rank: int, child: Child) -> None:
        rank = self._state.first_rank + local_rank
        prefix = f"[a{attempt} r{rank}] ".encode()
        attach(self._pipes, child, writer(1, prefix), writer(2, prefix))
        self._ranks[child.pid] = (local_rank, child)

    def _explain(self, why: str) -> None:
        if why and why not in self._said:
            self._said.add(why)
            self._say(f"ranks are started as new Pythons, not forked: {why}")

    def _not_started(self, local_ranks: Sequence[int], error: CannotStartError) -> None:
        now = datetime.now(UTC)
        for local_rank in local_ranks:
            self._events.append(RankEnded(local_rank, error.code, now, str(error), error.reason))

    def _spared(self) -> frozenset[int]:
        pids = (self._stores and self._stores.pid, self._forks and self._forks.pid)
        return frozenset(pid for pid in pids if pid)

    def _clear(self, spared: frozenset[int]) -> None:
        for pid, code in procs.kill_descendants(spared).items():
            self._reaped(pid, code)
        for child in self._gone:
            self._pipes.finish(child)
        self._gone.clear()
        if os.getpid() == 1:  # elsewhere /dev/shm is shared with strangers
            procs.clear_shared_memory()

    def _say(self, text: str) -> None:
        writer(2, b"[mlenv] ")(text.encode(errors="replace").splitlines())
