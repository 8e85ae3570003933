"""Child processes and what they print: the pipes between ranks and this pod's log."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from mlenv.launch.logs import Lines, Tail
from mlenv_api.conditions import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

CHUNK: Final = 64 * 1024
MAX_DRAIN: Final = 64 * 1024 * 1024
"""Of a process that is gone, at most so much is read: a survivor that holds its pipe could write for ever."""


class CannotStartError(Exception):
    """A program could not be started; `code` is what a shell would have exited with."""

    def __init__(self, message: str, code: int, reason: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


@dataclass(slots=True)
class Child:
    """A process of ours, and the end of what it said."""

    pid: int
    out: int
    """Reading end of its standard output; `Pipes` owns both ends from `attach` on."""
    err: int
    process: subprocess.Popen[bytes] | None = None
    """None for a process that was forked elsewhere."""
    tail: Tail = field(default_factory=Tail)
    streams: list[Stream] = field(default_factory=list)

    def reaped(self, code: int) -> None:
        """Its exit code is known: Popen need not look for it."""
        if self.process is None:
            return
        self.process.returncode = code
        if self.process.stdin:
            with contextlib.suppress(OSError):
                self.process.stdin.close()


@dataclass(slots=True)
class Stream:
    """One pipe from a child."""

    fd: int
    consume: Callable[[list[bytes]], None]
    lines: Lines = field(default_factory=Lines)


class Pipes:
    """All pipes, non-blocking, in one selector."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()

    def add(self, fd: int, consume: Callable[[list[bytes]], None]) -> Stream:
        """Give each whole line from `fd` to `consume`."""
        os.set_blocking(fd, False)
        stream = Stream(fd, consume)
        self.selector.register(fd, selectors.EVENT_READ, stream)
        return stream

    def pump(self, stream: Stream) -> int:
        """Read once; how many bytes came (0: nothing now, or closed)."""
        try:
            data = os.read(stream.fd, CHUNK)
        except BlockingIOError:
            return 0
        if data:
            stream.consume(stream.lines.feed(data))
        else:
            self._close(stream)
        return len(data)

    def drain(self, child: Child) -> None:
        """Read all that a process which is gone has left in its pipes."""
        for stream in child.streams:
            left = MAX_DRAIN
            while stream.fd >= 0 and left > 0 and (count := self.pump(stream)):
                left -= count

    def finish(self, child: Child) -> None:
        """Drain, then close: nobody can write there any more."""
        self.drain(child)
        for stream in child.streams:
            if stream.fd >= 0:
                self._close(stream)

    def _close(self, stream: Stream) -> None:
        self.selector.unregister(stream.fd)
        os.close(stream.fd)
        stream.fd = -1
        stream.consume(stream.lines.close())


def spawn(
    argv: Sequence[str],
    env: Mapping[str, str],
    *,
    stdin: int = subprocess.DEVNULL,
    keep: tuple[int, ...] = (),
) -> Child:
    """Start a program in a session of its own, with the descriptors `keep`. Raises CannotStartError."""
    _look_for_script(argv)
    try:
        process = subprocess.Popen(
            list(argv),
            env=dict(env),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            pass_fds=keep,
        )
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CannotStartError(
            f"{argv[0]}: command not found ({error})", 127, Reason.COMMAND_NOT_FOUND
        ) from error
    except OSError as error:
        if isinstance(error, BlockingIOError | MemoryError) or error.errno in _NO_ROOM:
            raise CannotStartError(f"{argv[0]}: no room for a process ({error})", 1, "") from error
        raise CannotStartError(
            f"{argv[0]}: cannot be run ({error})", 126, Reason.COMMAND_NOT_FOUND
        ) from error
    except ValueError as error:
        raise CannotStartError(f"{argv[0]!r}: {error}", 126, Reason.COMMAND_NOT_FOUND) from error
    return Child(process.pid, _take(process.stdout), _take(process.stderr), process)


def _take(file: IO[bytes] | None) -> int:
    """The descriptor of a pipe, which Popen's file object then does not close again."""
    assert file is not None
    fd = os.dup(file.fileno())
    file.close()
    return fd


_NO_ROOM: Final = (11, 12)
"""EAGAIN, ENOMEM: a full process table or memory, not a fault of the command."""


def _look_for_script(argv: Sequence[str]) -> None:
    script = argv[1] if len(argv) > 1 and argv[0] == sys.executable else ""
    if script.endswith(".py") and not Path(script).is_file():
        where = f" in {Path.cwd()}" if not Path(script).is_absolute() else ""
        raise CannotStartError(f"{script}: no such file{where}", 127, Reason.COMMAND_NOT_FOUND)


def attach(
    pipes: Pipes, child: Child, out: Callable[[list[bytes]], None], err: Callable[[list[bytes]], None]
) -> None:
    """Read what `child` prints. Its standard error is remembered as evidence."""

    def keep(lines: list[bytes]) -> None:
        child.tail.add(lines)
        err(lines)

    child.streams = [pipes.add(child.out, out), pipes.add(child.err, keep)]


def writer(fd: int, prefix: bytes) -> Callable[[list[bytes]], None]:
    """A consumer that writes prefixed lines to `fd`; a log that nobody reads is no reason to fail."""

    def consume(lines: list[bytes]) -> None:
        data = memoryview(b"".join(b"%b%b\n" % (prefix, line) for line in lines))
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(fd, data) :]

    return consume
