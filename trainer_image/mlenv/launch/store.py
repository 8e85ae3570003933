"""Keeps the process that hosts the stores alive: it must outlive every rank and every attempt."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from mlenv.launch.children import CannotStartError, Child, Pipes, attach, spawn, writer
from mlenv.launch.events import StoreBound, StoreFailed

if TYPE_CHECKING:
    from collections.abc import Callable

TRIES: Final = 3
"""Ends in a row, without ever having served, after which the world is told."""


class Stores:
    """The store process of this pod, started again, with its store on the same port, should it end."""

    def __init__(self, pipes: Pipes, address: str, tell: Callable[[StoreBound | StoreFailed], None]) -> None:
        self._pipes = pipes
        self._address = address
        self._tell = tell
        self._store = self._port = 0
        self._failures = 0
        self._child: Child | None = None

    @property
    def pid(self) -> int | None:
        """Its process, to be spared when ranks are cleared away."""
        return self._child.pid if self._child else None

    def start(self) -> None:
        """Start the process; StoreBound follows once it can be connected to."""
        argv = [sys.executable, "-m", "mlenv.store", self._address]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        try:
            child = spawn(argv, env, stdin=subprocess.PIPE)
        except CannotStartError as error:
            self._tell(StoreFailed(str(error)))
            return
        attach(self._pipes, child, self._listen, writer(2, b"[store] "))
        self._child = child
        self._order()

    def open(self, store: int) -> None:
        """Replace the store by a new one on a port of its own; StoreBound follows."""
        self._store, self._port = store, 0
        self._order()

    def ended(self, code: int) -> bool:
        """Its process is gone. True when it should be started again at once, else later."""
        assert self._child is not None
        self._child.reaped(code)
        self._pipes.finish(self._child)
        cause = self._child.tail.cause()
        self._child = None
        self._failures += 1
        if self._failures % TRIES == 0:
            self._tell(StoreFailed(cause or f"it ended with code {code}"))
        return self._failures < TRIES

    def _order(self) -> None:
        pipe = self._child.process.stdin if self._child and self._child.process else None
        if pipe:
            with contextlib.suppress(OSError):  # it has just ended, and gets this when it is started again
                pipe.write(json.dumps({"store": self._store, "port": self._port}).encode() + b"\n")

    def _listen(self, lines: list[bytes]) -> None:
        for line in lines:
            try:
                said = json.loads(line)
                store, port = int(said["store"]), int(said["port"])
            except (ValueError, KeyError, TypeError):
                continue
            if store == self._store:
                self._port = port
            if not said.get("serves"):
                self._tell(StoreBound(store, port))
            elif store == self._store:
                self._failures = 0


def free_port(address: str) -> int:
    """A port that is free now, for a world of one rank, which hosts its store itself."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
