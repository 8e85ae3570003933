"""A W&B server that is away for a third of the time: killed, or deaf, or failing."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

from wandb_server import Server as Wandb

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

SHARE: Final = 1 / 3
THERE: Final = (8.0, 25.0)
"""Seconds for which it is there at a time."""
LOOK: Final = 0.05
WAYS: Final[dict[str, tuple[Callable[[Wandb], object], Callable[[Wandb], object]]]] = {
    "killed": (Wandb.kill, Wandb.start),
    "deaf": (Wandb.freeze, Wandb.thaw),
    "failing": (lambda server: server.fault("*", status=503), Wandb.clear_faults),
}
"""How it goes away, and how it comes back. A deaf one takes connections and does not answer."""


class Weather:
    """Takes the server away, and brings it back over the same data, until told to stop."""

    def __init__(self, server: Wandb, chance: random.Random) -> None:
        self._server, self._chance = server, chance
        self._over = threading.Event()
        self._begun = time.monotonic()
        self._away = 0.0
        self._since: float | None = None
        self.times: Counter[str] = Counter()
        """How often it went away, by how."""
        self._thread = threading.Thread(target=self._live, daemon=True)

    def start(self) -> Weather:
        """From here on it comes and goes."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """It is there, and stays."""
        self._over.set()
        self._thread.join()

    @property
    def share(self) -> float:
        """How much of the time it was away."""
        now = time.monotonic()
        away = self._away + (now - self._since if self._since is not None else 0.0)
        return away / (now - self._begun)

    def _live(self) -> None:
        while not self._over.wait(self._chance.uniform(*THERE)):
            self._since = time.monotonic()
            way = self._chance.choice(list(WAYS))
            self.times[way] += 1
            go, come = WAYS[way]
            go(self._server)
            while self.share < SHARE and not self._over.wait(LOOK):
                pass
            come(self._server)
            self._away += time.monotonic() - self._since
            self._since = None
