"""An hour of a full fleet, second by second, as the ledger meets it: what metering takes of a CPU.

Every job has pods on nodes of eight devices, of which none is free, and every pod a launcher that tells what
its time went to. Changes come evenly, in turns: a program fails and begins again in the same pods; or a job
ends, and another begins in its place. Time is made up, so an hour takes minutes; what is done in it is not.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from books.machines import DEVICES, machines, uid_of
from mlenv_api.protocol import PROTOCOL, Beat, LauncherPhase, Progress, Spent
from mlenv_operator.core.world import BeatView, CoreSettings
from mlenv_operator.cost.facts import HOUR, SECOND, Attributed, Attribution, Category, Mark, Node, Pod
from mlenv_operator.cost.observe_spent import Metered, hear, tell
from mlenv_operator.ledger.accountant import Pace
from mlenv_operator.ledger.exports import MemoryMarks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from books.times import Times
    from mlenv_operator.cost.facts import Fact, Micros
    from mlenv_operator.cost.observe_spent import Meter
    from mlenv_operator.ledger.ledger import Ledger

STARTING: Final = 40 * SECOND
"""From a pod's node to its first step."""
PARTS: Final = ("facts", "beats", "settling", "publishing")
"""What metering does; all else that is timed is not."""


@dataclass
class Rank:
    """One pod and its launcher."""

    pod: Pod
    world: Micros
    """Since when its attempt has a world."""
    attempt: int = 1
    base: int = 0
    """The step that its attempt began with."""
    step: int = 0
    failed_at: int = 0
    """The step up to which earlier attempts had come."""
    meter: Meter | None = None

    def over(self, at: Micros) -> Iterator[Metered]:
        """What was heard of its attempt and not told yet."""
        if self.meter is not None:
            self.meter, marks = tell(self.meter, self.failed_at, at)
            yield Metered(self.meter, marks)


@dataclass
class Fleet:
    """Who runs."""

    jobs: int
    pods: int
    changes_per_s: float
    rng: random.Random = field(default_factory=lambda: random.Random(7))
    ranks: dict[int, list[Rank]] = field(default_factory=dict)
    begun: int = 0

    def nodes(self, types: Sequence[str], created: Micros) -> list[Node]:
        """As many as all pods fill."""
        return machines(types, -(-self.jobs * self.pods // DEVICES), created)

    def begin(self, place: int, at: Micros) -> Iterator[Fact]:
        """A new job in this place."""
        number, model = self.begun, self.begun % 500
        self.begun += 1
        uid, team = f"live-job-0000-0000-0000-{number:012d}", f"team-{model % 50}"
        whom = Attribution(
            f"ns-{team}", f"live-{number}", uid, team, f"model-{model}", "ranking", team, "gpu"
        )
        yield Attributed(uid, at, whom)
        self.ranks[place] = []
        for index in range(self.pods):
            device = place * self.pods + index
            bare = Pod(
                f"live-pod-{index:04d}-0000-0000-{number:012d}",
                whom.namespace,
                f"{whom.job}-{index}-0",
                uid,
                uid_of(device // DEVICES),
                gpus=1,
                cpu_milli=12_000,
                scheduled=at,
                telemetry=True,
            )
            self.ranks[place].append(Rank(replace(bare, started=at + 5 * SECOND), at + 20 * SECOND))
            yield bare

    def started(self, place: int) -> Iterator[Fact]:
        """Its containers run."""
        return (rank.pod for rank in self.ranks[place])

    def end(self, place: int, at: Micros) -> Iterator[Fact | Metered]:
        """The job in this place is done."""
        for rank in self.ranks.pop(place):
            yield from rank.over(at)
            yield replace(rank.pod, finished=at, released=at)

    def fail(self, place: int, at: Micros) -> Iterator[Fact | Metered]:
        """Its program begins again, in the same pods."""
        for rank in self.ranks[place]:
            yield from rank.over(at)
            rank.attempt, rank.world = rank.attempt + 1, at + SECOND
            rank.failed_at = max(rank.step, rank.failed_at)
            rank.base = rank.step = max(rank.step - 50, 0)
            yield Mark(rank.pod.uid, at, 0, rank.attempt, Category.RECOVERY)


def beat(rank: Rank, at: Micros) -> BeatView:
    """What a launcher says: mostly steps, some waiting, a checkpoint each twenty minutes."""
    age = max(at - rank.world, 0)
    init = min(age, STARTING)
    rest = age - init
    saved = rest // (1200 * SECOND) * SECOND
    waited = rest // 20
    now = datetime.fromtimestamp(at // SECOND, UTC) + timedelta(microseconds=at % SECOND)
    rank.step = rank.base + 4 * rest // SECOND
    spent = Spent.model_construct(
        init=init,
        productive=max(rest - saved - waited, 0),
        data_wait=waited,
        checkpoint_save=saved,
        checkpoint_restore=0,
        eval=0,
        time=now,
    )
    said = Beat.model_construct(
        protocol=PROTOCOL,
        attempt=rank.attempt,
        phase=LauncherPhase.RUNNING,
        progress=Progress.model_construct(step=rank.step),
        spent=spent,
        time=now,
    )
    return BeatView(said, now)


class Share(NamedTuple):
    """What metering took."""

    seconds: float
    """Of the fleet's time."""
    cpu: float
    publications: int
    live: int


class Hour:
    """Drives a ledger through the fleet's time."""

    def __init__(self, ledger: Ledger, times: Times, fleet: Fleet, begin: Micros) -> None:
        self._ledger = ledger
        self._times = times
        self._fleet = fleet
        self._now = begin
        self._coming: dict[Micros, list[tuple[str, int]]] = defaultdict(list)
        self._waiting: list[Fact | Metered] = []
        self._marks = MemoryMarks()
        self._pace = Pace()
        self._interval = 0
        self._publish_at = begin
        self._shown = 0

    def run(self, seconds: int) -> Share:
        """Fill the fleet, untimed; then live for so long."""
        self._fill()
        self._interval = round(max(2, self._fleet.jobs * self._fleet.pods / CoreSettings().beats_per_second))
        before = sum(self._times.cpu[part] for part in PARTS)
        published = self._times.calls["publishing"]
        for second in range(seconds):
            self._second(second)
        cpu = sum(self._times.cpu[part] for part in PARTS) - before
        return Share(seconds, cpu, self._times.calls["publishing"] - published, self._shown)

    def _fill(self) -> None:
        fleet = self._fleet
        for first in range(0, fleet.jobs, 100):
            told: list[Fact] = []
            for place in range(first, min(first + 100, fleet.jobs)):
                told += fleet.begin(place, self._now + fleet.rng.randrange(300 * SECOND))
                told += fleet.started(place)
            self._ledger.observe(told)
        self._now += 300 * SECOND
        for second in range(60):
            self._listen(second, 60, timed=False)
            self._now += SECOND
        self._ledger.observe(self._waiting)
        self._waiting.clear()
        self._ledger.publish(self._marks, self._now)

    def _second(self, second: int) -> None:
        self._change(second)
        self._listen(second, self._interval, timed=True)
        if self._waiting:
            with self._times.of("facts"):
                self._ledger.observe(self._waiting)
            self._waiting.clear()
        if not second % round(self._pace.settle_s):
            with self._times.of("settling"):
                self._ledger.reprice(self._now)
                self._ledger.settle_all(self._now)
        if self._now >= self._publish_at:
            before = self._times.cpu["publishing"]
            with self._times.of("publishing"):
                self._shown = len(self._ledger.publish(self._marks, self._now).jobs)
            pause = self._pace.after_publication(self._times.cpu["publishing"] - before)
            self._publish_at = self._now + round(pause * SECOND)
        self._now += SECOND

    def _change(self, second: int) -> None:
        """In turns: a failure, and a job that ends."""
        rate = self._fleet.changes_per_s
        for number in range(int(rate * second), int(rate * (second + 1))):
            place = self._fleet.rng.randrange(self._fleet.jobs)
            if place not in self._fleet.ranks:
                continue
            if number % 2:
                self._waiting += self._fleet.fail(place, self._now)
            else:
                self._waiting += self._fleet.end(place, self._now)
                self._coming[self._now + 2 * SECOND].append(("begin", place))
                self._coming[self._now + 8 * SECOND].append(("started", place))
        for what, place in self._coming.pop(self._now, ()):
            if what == "begin":
                self._waiting += self._fleet.begin(place, self._now)
            elif place in self._fleet.ranks:
                self._waiting += self._fleet.started(place)

    def _listen(self, second: int, interval: int, *, timed: bool) -> None:
        """The beats of this second: every launcher has its own within the interval."""
        ranks = [
            rank
            for place in range(second % interval, self._fleet.jobs, interval)
            for rank in self._fleet.ranks.get(place, ())
        ]
        said = [(rank, beat(rank, self._now)) for rank in ranks]
        with self._times.of("beats" if timed else "filling"):
            for rank, view in said:
                uid = rank.pod.uid
                rank.meter, marks = hear(rank.meter, uid, view, since=rank.world, highest=rank.failed_at)
                if rank.meter is not None and marks:
                    self._waiting.append(Metered(rank.meter, marks))


def share(ledger: Ledger, times: Times, fleet: Fleet, types: Sequence[str], minutes: int) -> Share:
    """What metering this fleet for so many minutes takes, from 35 past on: so an hour turns within it."""
    begin = 482_136 * HOUR + HOUR // 2
    ledger.observe(fleet.nodes(types, begin))
    return Hour(ledger, times, fleet, begin).run(60 * minutes)
