"""Every moment of a courier's work, who dies then, and the world: all disks are lost, and W&B has the rest.

A job without a volume is struck again and again. The server holds back a request of the courier's client at
the moment, which is never answered; meanwhile the victim is killed, and then every pod with its disk. What
comes next has fresh folders, and only what W&B has. It must run from the step that its courier had told as
stored before, or a later one, and every step that any attempt made must have the rows, the loss and the
bits of weights of the same step of a job that nobody disturbed. In the end nothing may be stored twice.

The default run takes triples in which every pair of what matters most occurs, `--slow` all of them.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest
import seeds
from carried import Store
from rig import Rig
from stored import MOMENTS, StoredJobs
from wandb_server import Server as Wandb

if TYPE_CHECKING:
    from collections.abc import Iterator

WORLDS: Final = ("1", "2", "4")
VICTIMS: Final = ("rank 0", "another rank", "launcher", "courier")
SHORT_MOMENTS: Final = ("in upload", "before commit", "before alias")
SHORT_VICTIMS: Final = ("rank 0", "courier")
"""Launchers are killed in any case: with their disks."""
SHORT_WORLDS: Final = ("1", "2")
END: Final = "the end"


class Loss(NamedTuple):
    """What happens before all disks are lost."""

    world: str
    moment: str
    victim: str


EVERY: Final = tuple(
    Loss(*one) for one in itertools.product(WORLDS, MOMENTS, VICTIMS) if one[::2] != ("1", "another rank")
)


def pairwise(seed: int) -> frozenset[Loss]:
    """Every moment with every victim, and both with every world: worlds are dealt until that is so."""
    chance, both = random.Random(seed), list(itertools.product(SHORT_MOMENTS, SHORT_VICTIMS))
    wanted = len(SHORT_WORLDS) * (len(SHORT_MOMENTS) + len(SHORT_VICTIMS))
    while True:
        found = [Loss(chance.choice(SHORT_WORLDS), *one) for one in both]
        met = {one[:2] for one in found} | {one[::2] for one in found}
        if len(met) == wanted:
            return frozenset(found)


CHOSEN: Final = pairwise(seeds.STORE)
ENDS: Final = {one.world for one in CHOSEN}
LOSSES: Final = [
    pytest.param(
        one,
        id=", ".join(one),
        marks=[] if one in CHOSEN or (one.moment == END and one.world in ENDS) else [pytest.mark.slow],
    )
    for world in WORLDS
    for one in (*(loss for loss in EVERY if loss.world == world), Loss(world, END, "nobody"))
]


@pytest.mark.parametrize("seed", range(5))
def test_every_pair_of_the_short_form_occurs(seed: int) -> None:
    chosen = pairwise(seed)
    assert chosen <= set(EVERY)
    factors = (SHORT_WORLDS, SHORT_MOMENTS, SHORT_VICTIMS)
    for (i, one), (j, other) in itertools.combinations(enumerate(factors), 2):
        assert {(loss[i], loss[j]) for loss in chosen} == set(itertools.product(one, other))


@pytest.fixture(scope="module")
def jobs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoredJobs]:
    """All that are running."""
    calls = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    rig = Rig(tmp_path_factory.mktemp("losses"))
    server = Wandb(rig.folder / "wandb").start()
    counts = Counter(params["loss"].world for params in calls if "loss" in params)
    found = StoredJobs(rig, Store(server, rig.folder), counts)
    yield found
    found.close()
    rig.close()
    server.kill()  # it holds back requests that it would wait for


@pytest.mark.parametrize("loss", LOSSES)
def test_whatever_dies_with_all_disks_the_store_has_what_it_said(jobs: StoredJobs, loss: Loss) -> None:
    job = jobs.befallen(loss.world)
    try:
        if loss.moment == END:
            assert job.twice() == []
            jobs.compare_ends(loss.world)
        else:
            job.befall(loss.moment, loss.victim)
    except BaseException:
        sys.stdout.write(job.told())
        jobs.forget(loss.world)
        raise
