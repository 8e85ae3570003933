"""What the program under test has said, and when the world was whole again. Pure but for `Tail`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

MOMENTS: Final = ("started", "imported", "connected", "built", "stepped")


@dataclass(frozen=True)
class Event:
    """One line of the program."""

    what: str
    """started, imported, connected, built or step."""
    time: float
    process: str
    rank: int
    pid: int
    """In the process namespace of the program."""
    began: float | None = None
    """When the process was started; of ``started``."""
    launcher_began: float | None = None
    """When process 1 of its namespace was started; of ``started``."""


@dataclass(frozen=True)
class Recovered:
    """When the last rank of the new world did what."""

    started: float
    imported: float
    connected: float
    built: float
    stepped: float
    """When every rank had committed its first step."""
    launchers: tuple[float, ...]
    """When process 1 beside each rank was started, by rank."""
    false_starts: int
    """Processes started after the kill that never committed a step."""

    @property
    def moments(self) -> dict[str, float]:
        """Those of the program, by the names that phases end with."""
        return {name: getattr(self, name) for name in MOMENTS}


def parse(line: bytes) -> Event | None:
    """The event of a line; None when it is not one."""
    try:
        raw = json.loads(line)
        return Event(
            str(raw["what"]),
            float(raw["time"]),
            str(raw["process"]),
            int(raw["rank"]),
            int(raw["pid"]),
            raw.get("began"),
            raw.get("launcher_began"),
        )
    except (ValueError, KeyError, TypeError):
        return None


@dataclass
class Tail:
    """Reads what was added to a file since the last look."""

    path: Path
    offset: int = 0
    rest: bytes = b""
    events: list[Event] = field(default_factory=list)

    def look(self) -> list[Event]:
        """All events so far."""
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self.offset)
                data = file.read()
            self.offset += len(data)
            *lines, self.rest = (self.rest + data).split(b"\n")
            self.events += [event for line in lines if (event := parse(line)) is not None]
        return self.events


def started_after(events: Iterable[Event], when: float) -> dict[str, list[Event]]:
    """The events of each process that began after that moment."""
    found: dict[str, list[Event]] = {}
    for event in events:
        if event.what == "started" and (event.began or event.time) > when:
            found[event.process] = []
        if event.process in found:
            found[event.process].append(event)
    return found


def recovered(events: Sequence[Event], killed: float, ranks: int) -> Recovered | None:
    """The world that came after a kill; None until each of its ranks has committed a step."""
    processes = started_after(events, killed)
    stepped = {key: said for key, said in processes.items() if _time(said, "step") is not None}
    by_rank = {said[0].rank: said for said in reversed(stepped.values())}
    if len(by_rank) < ranks:
        return None
    world = [by_rank[rank] for rank in sorted(by_rank)]
    return Recovered(
        started=max(said[0].began or said[0].time for said in world),
        imported=max(_time(said, "imported") or 0.0 for said in world),
        connected=max(_time(said, "connected") or 0.0 for said in world),
        built=max(_time(said, "built") or 0.0 for said in world),
        stepped=max(_time(said, "step") or 0.0 for said in world),
        launchers=tuple(said[0].launcher_began or 0.0 for said in world),
        false_starts=len(processes) - ranks,
    )


def steady(events: Sequence[Event], since: float, ranks: int, steps: int) -> dict[int, Event] | None:
    """The first event of each rank's process, once all have committed so many steps; None before."""
    processes = started_after(events, since)
    counts = {key: sum(event.what == "step" for event in said) for key, said in processes.items()}
    found = {said[0].rank: said[0] for key, said in processes.items() if counts[key] >= steps}
    return found if len(found) == ranks else None


def _time(said: Iterable[Event], what: str) -> float | None:
    """When this was said first."""
    return next((event.time for event in said if event.what == what), None)
