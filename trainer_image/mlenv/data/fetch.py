"""Bytes from wherever fsspec reaches: exact ranges, tried again while that makes sense.

Nothing stays open between two reads, so descriptors do not pile up and a fork inherits none.
"""

from __future__ import annotations

import io
import logging
import random
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from mlenv.data.errors import Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

log = logging.getLogger("mlenv.data")
PERMANENT: Final = (FileNotFoundError, PermissionError, IsADirectoryError, ValueError, TypeError, ImportError)
"""Errors that no second attempt cures."""
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 10.0
# Pauses differ between ranks, so that a store that comes back is not hit by all at once. The generator is not
# the program's: its random numbers are its own.
_jitter = random.Random()  # noqa: S311  (nothing is secret here)


# The interpreter waits for threads before it ends, and must not wait for a store.
_leaving = threading.Event()
threading._register_atexit(_leaving.set)  # type: ignore[attr-defined]  # noqa: SLF001  (atexit's run too late)


class Fetcher:
    """Reads ranges of files of one fsspec file system, for at most `patience` seconds each."""

    def __init__(self, fs: Any, patience: float) -> None:
        self._fs = fs
        self._patience = patience

    def fetch(self, path: str, start: int, end: int) -> bytes:
        """The bytes from start to end. Raises Unreadable."""
        return self.insist(lambda: self._once(path, start, end), path)

    def insist(self, read: Callable[[], bytes], path: str) -> bytes:
        """What `read` returns, after as many attempts as patience allows. Raises Unreadable."""
        deadline, pause = time.monotonic() + self._patience, FIRST_PAUSE
        while True:
            try:
                return read()
            except PERMANENT as error:
                raise Unreadable(f"{path} cannot be read: {_said(error)}") from error
            except Exception as error:
                # Stores, proxies and their clients raise whatever they like; all of it may pass.
                left = deadline - time.monotonic()
                if left <= 0:
                    raise Unreadable(
                        f"{path} could not be read for {self._patience:.0f} s, last: {_said(error)}. "
                        "The position is kept: start again when the store is well, or give it more patience="
                    ) from error
                log.warning("%s: %s; trying again for another %.0f s", path, _said(error), left)
                if _leaving.wait(min(pause * _jitter.uniform(0.5, 1.5), max(left, 0.01))):
                    raise Unreadable(f"{path} was not read: the program ends") from error
                pause = min(2 * pause, LONGEST_PAUSE)

    def _once(self, path: str, start: int, end: int) -> bytes:
        data = self._fs.cat_file(path, start=start, end=end)
        if len(data) != end - start:
            raise OSError(f"{len(data)} of {end - start} bytes came (from {start})")
        return bytes(data)


class Sparse(io.RawIOBase):
    """A file of which only some ranges are here; others are fetched when they are read."""

    def __init__(self, size: int, fetch: Callable[[int, int], bytes]) -> None:
        super().__init__()
        self._size, self._fetch = size, fetch
        self._ranges: list[tuple[int, memoryview]] = []
        self._at = 0

    def load(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Fetch these ranges now."""
        self._ranges += [(start, memoryview(self._fetch(start, end))) for start, end in ranges]

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As files do."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        """As files do."""
        return self._at

    def read(self, size: int = -1) -> Any:
        """The next bytes, without a copy where they are here already."""
        end = self._size if size < 0 else min(self._size, self._at + size)
        start, self._at = self._at, max(end, self._at)
        for begin, data in self._ranges:
            if begin <= start and end <= begin + len(data):
                return data[start - begin : end - begin]
        return self._fetch(start, end) if start < end else b""


def coalesce(ranges: Iterable[tuple[int, int]], gap: int, most: int) -> list[tuple[int, int]]:
    """Fewer, longer ranges: those less than `gap` apart become one of at most `most` bytes."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if merged and start - merged[-1][1] <= gap and end - merged[-1][0] <= most:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
