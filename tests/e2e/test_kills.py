"""A hundred times SIGKILL at random moments: every job ends as if nothing had happened.

MLENV_KILLS says how many, MLENV_KILLS_SEED which; `pytest -s` shows each as it comes.
"""

from __future__ import annotations

import os
import random
import secrets
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import claims
import pytest
from history import History
from hunt import PATIENCE, Ground, Hunter, report, unexplained, wire
from live import Namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from diary import Diary
    from live import Job

    from mlenv_local import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(3600)]

KILLS: Final = int(os.environ.get("MLENV_KILLS", "100"))
SEED: Final = int(os.environ.get("MLENV_KILLS_SEED") or random.randrange(10**6))
LANES: Final = 2
"""Jobs at a time."""
MOST: Final = 8
"""Kills of one job."""
STEPS: Final = 300
BAND: Final = 0.05
"""The loss of a job whose world changed, around that of one whose world did not."""
SHAPES: Final = {"pods": (2, 1), "spool": (2, 1), "ranks": (1, 2), "breathes": (2, 1)}
"""(pods, ranks in each) by name. `spool` and `breathes` have a shared volume; `breathes` changes its size."""


@dataclass
class Run:
    """All jobs of one test."""

    ground: Ground
    left: int
    jobs: dict[str, Job] = field(default_factory=dict)
    shapes: dict[str, str] = field(default_factory=dict)
    hunters: list[Hunter] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def lane(self, number: int, first: int) -> None:
        """Job after job, until enough has been killed, or a lane has failed."""
        try:
            self._hunt(number, first)
        except BaseException:
            self.left = 0
            raise

    def _hunt(self, number: int, first: int) -> None:
        hunter = Hunter(self.ground, random.Random(f"{SEED}/{number}"), say=self.say)
        self.hunters.append(hunter)
        order = list(SHAPES)[first:] + list(SHAPES)[:first]
        with claims.claim(self.ground.ns) as volume:
            while (most := self._share()) > 0:
                shape = order[sum(one.startswith(f"k{number}-") for one in self.jobs) % len(order)]
                name = f"k{number}-{shape}-{secrets.token_hex(2)}"
                spool = volume if shape in ("spool", "breathes") else None
                job = self.ground.submit(name, *SHAPES[shape], STEPS, spool)
                self.jobs[name], self.shapes[name] = job, shape
                done = len(
                    self._breathe(hunter, job, most) if shape == "breathes" else hunter.hunt(job, most)
                )
                job.until_phase("Complete", PATIENCE)
                self._give_back(most - done)

    def say(self, text: str) -> None:
        """As it happens."""
        sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
        sys.stdout.flush()

    def _breathe(self, hunter: Hunter, job: Job, most: int) -> list[object]:
        """Two pods, one, two: killed in each of these worlds."""
        done: list[object] = [*hunter.hunt(job, max(1, most // 3))]
        for nodes in (1, 2):
            if job.status().get("phase") in ("Complete", "Failed"):
                break
            job.edit(suspend=True)
            job.until(lambda one: one["phase"] in ("Suspended", "Complete"), "suspension", PATIENCE)
            if job.status()["phase"] == "Complete":
                break
            job.edit(trainer={"numNodes": nodes})
            job.edit(suspend=False)
            done += hunter.hunt(job, max(1, most // 3))
        return done

    def _share(self) -> int:
        """How often the next job may be struck."""
        with self._lock:
            mine = min(MOST, self.left)
            self.left -= mine
            return mine

    def _give_back(self, count: int) -> None:
        with self._lock:
            self.left += count


@pytest.fixture
def ground(installed: Cluster) -> Iterator[Ground]:
    history = History()
    ns = Namespace(installed, f"kills-{secrets.token_hex(3)}", seen=history.see)
    with tempfile.TemporaryDirectory(prefix="mlenv-kills-") as folder:
        yield Ground(ns, Path(folder), history)
        ns.close()


@pytest.fixture
def undisturbed(ground: Ground) -> Diary:
    """What a job of two ranks comes to when nobody is killed."""
    job = ground.submit("undisturbed", 2, 1, STEPS)
    job.until_phase("Complete", PATIENCE)
    return ground.diary(job)


def test_whatever_is_killed_every_job_ends_as_if_nothing_had_been(
    ground: Ground, undisturbed: Diary, tell: Callable[[str], None]
) -> None:
    tell(f"{KILLS} kills, MLENV_KILLS_SEED={SEED}")
    run = Run(ground, KILLS)
    terms = ground.leader()[1]
    with ThreadPoolExecutor(LANES) as pool:
        lanes = [pool.submit(run.lane, number, 2 * number) for number in range(LANES)]
    killed = sorted((one for hunter in run.hunters for one in hunter.kills), key=lambda one: one.time)
    diaries = {name: ground.diary(job) for name, job in run.jobs.items()}
    wrong = [repr(error) for lane in lanes if (error := lane.exception())]
    for name in run.jobs:
        mine = [one for one in killed if one.job == name]
        wrong += [f"{name}: {one}" for one in _wrong(run, name, diaries[name], undisturbed)]
        wrong += unexplained(name, ground.history.records(name), mine)
    ground.living_leader()
    lost = ground.leader()[1] - terms - sum(one.victim == "operator" for one in killed)
    if lost:
        wrong.append(f"the Lease changed hands {lost} time(s) more often than its holder was killed")
    tell(report(SEED, killed, diaries, "all bit for bit" if not wrong else "NOT as they should be"))
    assert not wrong, "\n".join([f"seed {SEED}", *wrong, wire(killed)])
    assert len(killed) >= KILLS


def _wrong(run: Run, name: str, diary: Diary, undisturbed: Diary) -> Iterator[str]:
    """What is not as it would have been."""
    yield from run.ground.history.contradictions(name)
    yield from diary.contradictions()
    end, whole = diary.end, undisturbed.end
    if run.shapes[name] != "breathes":
        expected = undisturbed.losses()
        done = [((one["rank"], one["step"]), one["loss"]) for one in diary.steps]  # also what was done again
        other = sorted({at for at, loss in done if expected.get(at) != loss})
        if other or end != whole:
            yield f"{end} instead of {whole}; other losses at (rank, step) {other[:5]}"
        return
    if any(end.get(key) != whole[key] for key in ("step", "samples", "exact")):
        yield f"{end} instead of {whole}"
    elif abs(diary.tail_loss() - undisturbed.tail_loss()) > BAND:
        yield f"a loss of {diary.tail_loss():.4f} in the end instead of {undisturbed.tail_loss():.4f}"
