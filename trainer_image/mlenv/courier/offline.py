"""Runs that a program's own wandb calls left in a folder, as it has no key: sent once nobody writes them."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from mlenv.courier.errors import StoreFailed
from mlenv.courier.faults import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mlenv.courier.remote import Store

QUIET_SECONDS: Final = 600.0
"""A run that was not written for so long is sent while others go on; sent again, should it have grown."""
SENT: Final = "mlenv-sent"
"""In a run's folder: how many bytes of it were sent."""
LOOK_SECONDS: Final = 30.0


class Offline:
    """Those of one folder. What cannot be read holds up nothing; that the store is away is told."""

    def __init__(
        self,
        folder: Path,
        store: Store,
        say: Callable[[str], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._store = store
        self._say = say
        self._now = now
        self._unfit: dict[Path, int] = {}
        self._look_at = 0.0
        with suppress(OSError):  # the client takes another folder where there is none
            folder.mkdir(parents=True, exist_ok=True)

    def turn(self, *, ended: bool) -> bool:
        """Send one; whether there was one. `ended`: nobody writes any more. Raises StoreFailed."""
        if not ended and self._now() < self._look_at:
            return False
        found = next(self.left(ended=ended), None)
        if found is None:
            self._look_at = self._now() + LOOK_SECONDS
            return False
        self._send(*found)
        return True

    def left(self, *, ended: bool) -> Iterator[tuple[Path, int]]:
        """(file, bytes) of each that is to be sent."""
        for file in sorted(self._folder.glob("wandb/offline-run-*/*.wandb")):
            try:
                about = file.stat()
                sent = _sent(file)
            except OSError:
                continue
            quiet = ended or self._now() - about.st_mtime >= QUIET_SECONDS
            if quiet and about.st_size not in (0, sent, self._unfit.get(file)):
                yield file, about.st_size

    def _send(self, file: Path, size: int) -> None:
        try:
            self._store.sync(file.parent, size)
        except StoreFailed as error:
            if error.fault.kind not in (Kind.OTHER, Kind.LOCAL):
                raise
            self._unfit[file] = size
            self._say(f"the program's own run in {file.parent.name} is not sent: {error.fault.sentence}")
            return
        (file.parent / SENT).write_text(str(size))
        self._say(f"the program's own run in {file.parent.name} is sent ({size} bytes)")


def _sent(file: Path) -> int:
    try:
        return int((file.parent / SENT).read_text())
    except (FileNotFoundError, ValueError):
        return -1
