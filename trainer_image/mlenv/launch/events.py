"""What happens to a launcher (events) and what it does about it (commands)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from mlenv.record import Known
    from mlenv_api.protocol import Answer, World


class Timer(StrEnum):
    """Alarms that the core may set; setting one again replaces it."""

    KILL = "kill"
    """The grace of the ranks being ended is over."""
    LINGER = "linger"
    """A launcher whose ranks succeeded has waited long enough for ``stop``."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The operator answered a beat."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class RankEnded:
    """A rank's process is gone (or never came to be: then `reason` says why)."""

    local_rank: int
    code: int
    """Exit code, or the negative number of the signal that ended it."""
    time: datetime
    message: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StoreBound:
    """A store listens."""

    store: int
    """Which one, counted by `OpenStore`; 0 is the one that a launcher opens when it starts."""
    port: int


@dataclass(frozen=True, slots=True)
class StoreFailed:
    """The store cannot be started."""

    message: str


@dataclass(frozen=True, slots=True)
class Signalled:
    """Somebody sent this launcher a signal."""

    number: int


@dataclass(frozen=True, slots=True)
class TimeUp:
    """An alarm rang."""

    timer: Timer


Event = Answered | RankEnded | StoreBound | StoreFailed | Signalled | TimeUp


@dataclass(frozen=True, slots=True)
class Start:
    """Start all ranks of this node."""

    attempt: int
    world: World
    known: Known | None = None
    """What they are told of the past; None: there is no record, and nothing is proposed or waited for."""


@dataclass(frozen=True, slots=True)
class Signal:
    """Send a signal to the process group of each live rank."""

    number: int


@dataclass(frozen=True, slots=True)
class Clear:
    """Kill and reap whatever the ranks left behind."""


@dataclass(frozen=True, slots=True)
class OpenStore:
    """Close the store, with all that an older attempt left in it, and open a new one."""

    store: int


@dataclass(frozen=True, slots=True)
class Beat:
    """Tell the operator now, not at the next interval."""


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Ring `timer` after so many seconds."""

    timer: Timer
    seconds: float


@dataclass(frozen=True, slots=True)
class CancelTimer:
    """Do not ring."""

    timer: Timer


@dataclass(frozen=True, slots=True)
class Say:
    """A sentence for the pod's log."""

    text: str


@dataclass(frozen=True, slots=True)
class Exit:
    """Clear, then end this launcher."""

    code: int


Command = Start | Signal | Clear | OpenStore | Beat | SetTimer | CancelTimer | Say | Exit
