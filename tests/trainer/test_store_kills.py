"""Kills at random moments while W&B is away a third of the time: every job ends as if nothing had happened.

Launchers, ranks, couriers, their clients and the W&B server are real processes; what becomes of it is decided
by the operator's own rules (`operated`). MLENV_STORE_KILLS says how many, MLENV_STORE_KILLS_SEED which;
`pytest -s` shows each as it comes.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

import pytest
from carried import Store
from hunted import STEPS, Hunted, Hunter
from rig import Rig
from struck import Job
from wandb_server import Server as Wandb
from weather import Weather

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(4 * 3600)]

KILLS: Final = int(os.environ.get("MLENV_STORE_KILLS", "100"))
SEED: Final = int(os.environ.get("MLENV_STORE_KILLS_SEED") or random.randrange(10**6))
MOST: Final = 10
"""Kills of one job."""
WORLDS: Final = ("1", "2")


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.close()


@pytest.fixture
def store(rig: Rig) -> Iterator[Store]:
    server = Wandb(rig.folder / "wandb").start()
    yield Store(server, rig.folder)
    server.stop()


def say(text: str) -> None:
    """As it happens."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


def test_with_the_store_away_a_third_of_the_time_nothing_that_it_said_is_lost(
    rig: Rig, store: Store, tell: Callable[[str], None]
) -> None:
    tell(f"{KILLS} kills, MLENV_STORE_KILLS_SEED={SEED}")
    chance = random.Random(SEED)
    weather = Weather(store.server, random.Random(f"{SEED}/weather")).start()
    hunter = Hunter(chance, say, lambda: weather.share)
    wholes: dict[str, Job] = {}
    jobs: list[Hunted] = []
    try:
        while len(hunter.kills) < KILLS:
            world = WORLDS[len(jobs) % len(WORLDS)]
            if world not in wholes:
                wholes[world] = Job(rig, world, f"whole{world}", STEPS, None)
            jobs.append(Hunted(rig, store, world, f"k{len(jobs)}", wholes[world]))
            hunter.hunt(jobs[-1], min(MOST, KILLS - len(hunter.kills)))
            jobs[-1].platform.close()
    except BaseException:
        sys.stdout.write(jobs[-1].told())
        raise
    finally:
        weather.stop()
        for job in (*jobs, *wholes.values()):
            job.platform.close()
    wrong = [f"{job.name}: {one}" for job in jobs for one in job.wrong()]
    tell(report(jobs, hunter, weather, wrong))
    assert not wrong, "\n".join([f"seed {SEED}", *wrong])


def report(jobs: list[Hunted], hunter: Hunter, weather: Weather, wrong: list[str]) -> str:
    """The figures, in a line."""
    victims = Counter(one.victim for one in hunter.kills)
    killed = ", ".join(f"{name} {count}" for name, count in victims.most_common())
    ways = ", ".join(f"{way} {count}" for way, count in weather.times.most_common())
    resumes = sum(len(job.resumes) for job in jobs)
    above = sum(step > 0 for job in jobs for step in job.resumes.values())
    return (
        f"{len(hunter.kills)} kills ({killed}) of {len(jobs)} jobs; {resumes} resumes, {above} of them from a"
        f" checkpoint; {sum(job.lost() for job in jobs)} steps made again; the store away"
        f" {weather.times.total()} times ({ways}), {weather.share:.0%} of the time;"
        f" {'all bit for bit' if not wrong else 'NOT as it should be'}; seed {SEED}"
    )
