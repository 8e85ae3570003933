"""One decision per file. The first policy that decides moves the attempt; the order is the meaning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from mlenv_operator.core.classify import Scene
from mlenv_operator.core.policies.assembly import assembly
from mlenv_operator.core.policies.costlimit import cost_limit
from mlenv_operator.core.policies.deadline import deadline
from mlenv_operator.core.policies.failure import failure
from mlenv_operator.core.policies.queue import queue
from mlenv_operator.core.policies.record import record
from mlenv_operator.core.policies.start import start
from mlenv_operator.core.policies.success import success
from mlenv_operator.core.policies.suspend import suspend
from mlenv_operator.core.transition import Move

Policy: TypeAlias = Callable[[Scene], Move | None]

POLICIES: Final[tuple[Policy, ...]] = (
    success,  # what is done is done, whatever else is true
    suspend,  # a user's word comes before time limits and faults
    deadline,
    cost_limit,
    failure,
    record,  # what has failed runs from nothing any more
    assembly,
    queue,
    start,
)
