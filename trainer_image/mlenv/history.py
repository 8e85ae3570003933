"""The history of committed steps: rank 0 appends it for its courier, who logs it to the job's W&B run.

What is written is in the page cache, so it outlives any process that is killed; a row is written before a
checkpoint of its step is sealed, so whatever is gone on from has its history. Numbers are read from the
device when a report waits for it anyway, never at a step.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Final

import torch

from mlenv import page, rows

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mlenv.values import Metric
    from mlenv_api.protocol import Spent

MAX_FILE: Final = 8 << 20
MAX_FOLDER: Final = 128 << 20
"""Of files that no courier has logged yet: then nothing more is written, and training goes on."""
PENDING: Final = 256
"""Rows that wait for the device at most."""
NEVER: Final = 1 << 62


class History:
    """Appends to files of its own. Nothing here raises, or waits for anything but the device."""

    def __init__(self, folder: Path, head: rows.Head) -> None:
        self.due = rows.following(head.start)
        """The next step that has a row."""
        self._folder = folder
        self._head = rows.head(head)
        self._attempt = head.attempt
        self._fd = -1
        self._size = MAX_FILE
        self._pending: list[tuple[int, float, dict[str, Metric | None], int, int]] = []
        self._done = False
        self._stopped = ""

    def add(self, step: int, metrics: Mapping[str, Metric], samples: int, epoch: int) -> None:
        """Remember the row of a committed step."""
        self.due = rows.following(step)
        taken = {name: _taken(value) for name, value in metrics.items()}
        self._pending.append((step, time.time(), taken, samples, epoch))
        if len(self._pending) >= PENDING:
            self.flush()

    def note(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write what belongs to a step besides, such as an AUC."""
        self.flush()
        if step > 0 and metrics:
            self._write(rows.row(rows.Row(step, time.time(), _few(metrics))))

    def flush(self) -> None:
        """Write what is pending: waits for the device."""
        pending, self._pending = self._pending, []
        if pending and not self._done:
            read = _numbers([one[2] for one in pending])
            made = [
                rows.row(rows.Row(step, when, numbers, samples, epoch))
                for (step, when, _, samples, epoch), numbers in zip(pending, read, strict=True)
            ]
            self._write("".join(made))

    def spend(self, spent: Spent) -> None:
        """Tell what this attempt's time went to, in seconds."""
        told = spent.model_dump(by_alias=False, exclude={"time"})
        seconds = {name: took / 1e6 for name, took in told.items()}
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            page.replace(self._folder, rows.SPENT, json.dumps({"attempt": self._attempt, **seconds}))
        self._tell()  # a disk that was full may take a page by now

    def close(self, code: int | None) -> None:
        """Write the end, where it is known; what is pending and cannot be read any more is left out."""
        if code is not None:
            self.flush()
            self._write(rows.end(code))
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self.due, self._done = -1, NEVER, True

    def _write(self, text: str) -> None:
        if self._done:
            return
        try:
            data = text.encode()
            if self._size + len(data) > MAX_FILE:
                self._roll()
            while data:
                written = os.write(self._fd, data)
                self._size += written
                data = data[written:]
        except OSError as error:
            self._give_up(str(error))

    def _roll(self) -> None:
        """Begin the next file, behind those that a process of this attempt wrote before."""
        self._folder.mkdir(parents=True, exist_ok=True)
        there = [(rows.order(one.name), one) for one in self._folder.iterdir()]
        if sum(_size(one) for _, one in there) > MAX_FOLDER:
            raise OSError(f"more than {MAX_FOLDER >> 20} MiB there wait to be logged")
        numbers = [order[1] for order, _ in there if order is not None and order[0] == self._attempt]
        path = self._folder / rows.name(self._attempt, max(numbers, default=-1) + 1)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._size = os.write(self._fd, self._head.encode())

    def _give_up(self, why: str) -> None:
        self._done, self.due = True, NEVER
        sys.stderr.write(f"mlenv: no history from here on: {self._folder} takes nothing more ({why})\n")
        self._stopped = f"{self._folder} takes nothing more: {why}"
        self._tell()

    def _tell(self) -> None:
        """Leave word for the courier that nothing more comes."""
        if self._stopped:
            with contextlib.suppress(OSError):
                self._folder.mkdir(parents=True, exist_ok=True)
                said = {"attempt": self._attempt, "why": self._stopped[:200]}
                page.replace(self._folder, rows.STOPPED, json.dumps(said))
                self._stopped = ""


def _size(path: Path) -> int:
    """Of what its courier may delete any moment."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _few(metrics: Mapping[str, float]) -> dict[str, float]:
    return dict(list(metrics.items())[: rows.MAX_METRICS])


def _taken(value: Metric) -> Metric | None:
    """The value as it is now, as a program may change a tensor in place; without waiting for the device."""
    if not isinstance(value, torch.Tensor):
        return value
    if value.numel() != 1:
        return None  # the next report says so, with an error
    return value.item() if value.device.type == "cpu" else value.reshape(()).clone()


def _numbers(metrics: list[Mapping[str, Metric | None]]) -> list[dict[str, float]]:
    """All of them as numbers, those of the device in one transfer; without what can be none."""
    waiting = [value.double() for one in metrics for value in one.values() if isinstance(value, torch.Tensor)]
    read = iter(torch.stack(waiting).tolist() if waiting else ())
    found = []
    for one in metrics:
        said = (
            (name, next(read) if isinstance(value, torch.Tensor) else value) for name, value in one.items()
        )
        found.append({name: number for name, value in said if (number := _number(value)) is not None})
    return [_few(one) for one in found]


def _number(value: object) -> float | None:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
