"""Cuts a stream of bytes into lines, however the network has cut it into chunks."""

from __future__ import annotations


class LineSplitter:
    """Feed chunks, get whole lines; what follows the last newline waits for more."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that this chunk completes, without empty ones."""
        head, newline, tail = chunk.rpartition(b"\n")
        if not newline:
            # A long line comes in many chunks: joined once, not once per chunk.
            self._parts.append(chunk)
            return []
        lines = b"".join((*self._parts, head)).split(b"\n")
        self._parts = [tail] if tail else []
        return [line for line in lines if line]
