"""Where the next beat goes, and when, after what happened to the last one. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

FIRST_DELAY: Final = 0.2
LAST_DELAY: Final = 5.0
LONGEST_WISH: Final = 30.0
"""A server that asks for more patience (Retry-After) gets this much."""
MAX_HOPS: Final = 3


@dataclass(frozen=True, slots=True)
class Route:
    """The operator's addresses, in order of preference, and how they fared."""

    urls: tuple[str, ...]
    leader: str | None = None
    """Where a 421 said the leader is; remembered until it fails."""
    position: int = 0
    failures: int = 0
    """Beats in a row without an answer."""
    hops: int = 0
    """421s in a row."""
    wish: float = 0.0
    """Seconds that the server asked us to wait."""

    @property
    def target(self) -> str:
        """The base URL for the next beat."""
        return self.leader or self.urls[self.position]

    def answered(self) -> Route:
        """After an answer: stay here."""
        return replace(self, failures=0, hops=0, wish=0.0)

    def failed(self, wish: float = 0.0) -> Route:
        """After no answer, or an error: try the next address, later."""
        here = self.position if self.leader else (self.position + 1) % len(self.urls)
        return replace(self, leader=None, position=here, failures=self.failures + 1, hops=0, wish=wish)

    def misdirected(self, leader: str | None) -> Route:
        """After a 421: follow it at once, but not in circles."""
        known = leader is not None and leader.startswith(("http://", "https://")) and leader != self.target
        if leader is None or not known or self.hops >= MAX_HOPS:
            return self.failed()
        return replace(self, leader=leader.rstrip("/"), hops=self.hops + 1, wish=0.0)

    def delay(self, draw: float) -> float:
        """Seconds until the next try; `draw` in [0, 1) spreads a thousand launchers apart."""
        if self.failures == 0:
            return 0.0
        longest = min(LAST_DELAY, FIRST_DELAY * 2.0 ** min(self.failures - 1, 16))
        return max(longest * (0.5 + 0.5 * draw), min(self.wish, LONGEST_WISH))
