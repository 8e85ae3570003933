"""The history that ranks wrote, read from its files as they grow. Ranks may write anything there."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from mlenv import rows
from mlenv.courier.runlog import Told

if TYPE_CHECKING:
    from pathlib import Path

PIECE: Final = 256 << 10
"""Bytes that are read at once."""
KEPT: Final = 2
"""Attempts whose files are left: how the one before ended says what the newest one is."""


@dataclass(slots=True)
class _File:
    path: Path
    order: tuple[int, int]
    head: rows.Head
    code: int | None = None
    offset: int = 0
    held: list[rows.Row] = field(default_factory=list)
    """Rows of the newest step: more may come."""

    def take(self, new: list[rows.Row], *, whole: bool) -> list[rows.Row]:
        """Rows of whole steps, one each; where nothing more comes, what is held too."""
        found = [*self.held, *new]
        newest = 0 if whole or not found else found[-1].step
        self.held = [one for one in found if one.step == newest]
        return rows.merged(one for one in found if one.step != newest)


class Book:
    """All files of one job, in the order of their attempts."""

    def __init__(self, folder: Path, uid: str) -> None:
        self._folder = folder
        self._uid = uid
        self._files: list[_File] = []
        self._now = 0

    @property
    def attempts(self) -> list[Told]:
        """Each attempt once, the oldest first, with how it ended, as far as is known."""
        found: dict[int, Told] = {}
        for one in self._files:
            before = found.get(one.head.attempt)
            head = before.head if before and before.head.start <= one.head.start else one.head
            found[one.head.attempt] = Told(head, one.code)
        return [found[attempt] for attempt in sorted(found)]

    def look(self) -> None:
        """See which files there are; and how those ended that nothing more is read from."""
        known = {one.path.name for one in self._files}
        try:
            present = [(order, one) for one in self._folder.iterdir() if (order := rows.order(one.name))]
        except OSError:
            return
        made = [self._begun(order, path) for order, path in sorted(present) if path.name not in known]
        fresh = [one for one in made if one is not None]
        if fresh and self._files:
            current = self._files[self._now].path
            self._files = sorted([*self._files, *fresh], key=lambda one: one.order)
            self._now = next(at for at, one in enumerate(self._files) if one.path == current)
        else:
            self._files += fresh

    def read(self, *, last: bool) -> tuple[int, list[rows.Row]]:
        """(attempt, rows of whole steps that were not read before); `last`: nothing more is written.

        Rows of one attempt at a time, at most as many as a piece of a file holds.
        """
        while self._now < len(self._files):
            one = self._files[self._now]
            over = last or one.code is not None or self._now + 1 < len(self._files)
            data = _lines(one.path, one.offset)
            one.offset += len(data)
            found = one.take(_rows(one, data), whole=over and not data)
            if found:
                return one.head.attempt, found
            if not data and self._now + 1 == len(self._files):
                break
            self._now += not data
        return 0, []

    def again(self) -> None:
        """Read everything from the beginning."""
        self._files, self._now = [], 0

    def drop(self) -> None:
        """Delete what was read and logged, but for files that may still be written, or tell of the past."""
        attempts = sorted({one.head.attempt for one in self._files})[-KEPT:]
        for one in self._files[: self._now]:
            following = self._files[self._files.index(one) + 1]
            if one.head.attempt not in attempts or (
                following.order[0] == one.order[0] and following.head.start == one.head.start
            ):
                one.path.unlink(missing_ok=True)

    def _begun(self, order: tuple[int, int], path: Path) -> _File | None:
        first, found, _ = _lines(path, 0).partition(b"\n")
        head = rows.read_head(first) if found else None
        if head is None or head.attempt != order[0] or head.job not in ("", self._uid):
            return None
        return _File(path, order, head, _code(path), len(first) + 1)


def _lines(path: Path, offset: int) -> bytes:
    """Whole lines from there on; a line that is too long is passed over."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        data = os.pread(fd, PIECE, offset)
    except OSError:
        return b""
    finally:
        os.close(fd)
    end = data.rfind(b"\n")
    return data if end < 0 and len(data) == PIECE else data[: end + 1]


def _rows(one: _File, data: bytes) -> list[rows.Row]:
    found: list[rows.Row] = []
    for line in data.splitlines():
        said = rows.read(line)
        if isinstance(said, rows.End):
            one.code = said.code
        elif (
            said is not None and said.step > one.head.start and said.step >= (found[-1].step if found else 0)
        ):
            found.append(said)
    return found


def _code(path: Path) -> int | None:
    """What the last line says."""
    try:
        tail = _lines(path, max(0, path.stat().st_size - 64))
    except OSError:
        return None
    said = rows.read(tail.rstrip().rpartition(b"\n")[2])
    return said.code if isinstance(said, rows.End) else None
