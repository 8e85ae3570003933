"""Ports for servers that are told theirs, so that no two on one machine are taken for each other."""

from __future__ import annotations

import random
import socket
from contextlib import closing
from typing import Final

OURS: Final = range(20_000, 30_000)
"""Below those that Linux gives to connections: one could take a port between its choice and its use."""
_given: Final[set[int]] = set()


def free_port(host: str = "127.0.0.1") -> int:
    """One that nobody uses now, and that this process was not given before."""
    chance = random.SystemRandom()
    while True:
        port = chance.choice(OURS)
        if port not in _given and _is_free(host, port):
            _given.add(port)
            return port


def free_ports(count: int) -> list[int]:
    """So many of loopback."""
    return [free_port() for _ in range(count)]


def _is_free(host: str, port: int) -> bool:
    with closing(socket.socket()) as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True
