"""Nudges: a datagram, whatever it holds and whoever sent it, makes the launcher ask the operator now.

It carries nothing that could be trusted or forged. Where UDP is blocked, the next beat asks.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import selectors

DEAF_SECONDS: Final = 0.25
"""After one nudge nothing is listened to for so long: a flood costs four beats a second, and no more."""
BUFFER: Final = 4096
"""Bytes that the kernel keeps meanwhile; the rest is dropped: one datagram is as good as a thousand."""
AT_MOST: Final = 64


class Nudges:
    """A UDP socket in the launcher's selector."""

    def __init__(self, selector: selectors.BaseSelector, address: str) -> None:
        self._selector = selector
        self._socket: socket.socket | None = None
        self.port: int | None = None
        """Where it listens; None when the address cannot be had."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with contextlib.suppress(OSError):
            self._socket = socket.socket(family, socket.SOCK_DGRAM)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            self._socket.setblocking(False)  # noqa: FBT003  (the socket module's signature)
            self._socket.bind((address, 0))
            self.port = int(self._socket.getsockname()[1])
            self.listen()

    def listen(self) -> None:
        """Hear the next one, or one that came meanwhile."""
        assert self._socket is not None
        self._selector.register(self._socket, 1, self)

    def heard(self) -> None:
        """Take what came, and be deaf until `listen`."""
        assert self._socket is not None
        self._selector.unregister(self._socket)
        with contextlib.suppress(OSError):
            for _ in range(AT_MOST):
                self._socket.recv(1)
