"""Questions behind /healthz and /readyz. Each answers with a sentence when something is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from mlenv_operator.adapters.metrics import LoopLag
    from mlenv_operator.runtime.clock import Clock
    from mlenv_operator.runtime.informer import Informer
    from mlenv_operator.runtime.workqueue import WorkQueue

    Check = Callable[[], str | None]


def loop_is_prompt(lag: LoopLag, limit_s: float = 5.0) -> Check:
    """Whether the event loop has lately been on time."""

    def check() -> str | None:
        return f"the event loop was {lag.worst_s:.1f} s late" if lag.worst_s > limit_s else None

    return check


def watch_progresses(informer: Informer[Any], clock: Clock, limit_s: float = 300.0) -> Check:
    """Whether the informer hears anything: bookmarks come every minute, silence is cut after 150 s."""

    def check() -> str | None:
        silent = clock.monotonic() - informer.last_progress
        return f"watch on {informer.name}: nothing heard for {silent:.0f} s" if silent > limit_s else None

    return check


def queue_moves(queue: WorkQueue[Hashable], limit_s: float = 600.0) -> Check:
    """Whether no key is stuck."""

    def check() -> str | None:
        age = queue.oldest_age()
        return f"the oldest key has waited for {age:.0f} s" if age > limit_s else None

    return check


def caches_are_synced(informers: Iterable[Informer[Any]]) -> Check:
    """Whether every cache has been filled once."""
    every = tuple(informers)

    def check() -> str | None:
        missing = [informer.name for informer in every if not informer.synced]
        return f"not yet listed: {', '.join(missing)}" if missing else None

    return check
