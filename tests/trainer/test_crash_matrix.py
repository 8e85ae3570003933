"""Every pair of: a place in the code, who dies while rank 0 stands there, and the worlds before and after.

A job is struck again and again. Rank 0 stops at the place, and says so; then the test kills, and lets it go
on. What becomes of that is decided by the operator's own rules (`operated`). After every strike each step
that any attempt made is compared with the same step of a job that nobody disturbed: its samples, and in the
same world the bits of its weights; in a changed one its loss. A job that failed a case is left, and the next
case gets a new one.

The default run takes triples in which every pair occurs, `--slow` all of them. A world of one rank has no
other rank to kill; everything else can happen.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest
import seeds
from rig import Rig
from struck import WORLDS, Jobs

from mlenv.ckpt import failpoints

if TYPE_CHECKING:
    from collections.abc import Iterator

POINTS: Final = (*failpoints.POINTS, "record")
VICTIMS: Final = ("rank 0", "another rank", "launcher", "operator")


class Case(NamedTuple):
    """What happens."""

    world: str
    point: str
    victim: str


EVERY: Final = tuple(
    Case(*one) for one in itertools.product(WORLDS, POINTS, VICTIMS) if one[::2] != ("1", "another rank")
)


def pairwise(seed: int) -> list[Case]:
    """Few cases in which every pair of values of two factors occurs that occurs in any.

    At each point the four victims are dealt to the four worlds: that is all pairs with points. They are dealt
    again until every victim was in every world.
    """
    chance = random.Random(seed)
    wanted = {pair for one in EVERY for pair in pairs(one)}
    while True:
        deals = [chance.choice(DEALS) for _ in POINTS]
        found = [
            Case(world, point, victim)
            for point, deal in zip(POINTS, deals, strict=True)
            for world, victim in zip(WORLDS, deal, strict=True)
        ]
        if wanted == {pair for one in found for pair in pairs(one)}:
            return sorted(found)


DEALS: Final = [one for one in itertools.permutations(VICTIMS) if one[0] != "another rank"]
"""Of victims to worlds."""


def pairs(case: Case) -> set[tuple[int, str, int, str]]:
    """Of values, each with its factor."""
    return {(i, case[i], j, case[j]) for i, j in itertools.combinations(range(len(case)), 2)}


CHOSEN: Final = frozenset(pairwise(seeds.MATRIX))


@pytest.mark.parametrize("seed", range(5))
def test_every_pair_that_can_occur_occurs(seed: int) -> None:
    chosen = pairwise(seed)
    everything = {
        (i, a, j, b)
        for (i, one), (j, other) in itertools.combinations(enumerate((WORLDS, POINTS, VICTIMS)), 2)
        for a, b in itertools.product(one, other)
    }
    assert everything - {(0, "1", 2, "another rank")} == {pair for one in chosen for pair in pairs(one)}
    assert set(chosen) <= set(EVERY)
    assert len(chosen) == len(WORLDS) * len(POINTS)  # no fewer can do


END: Final = "the end"
"""Of a job that was struck by all cases of its world."""
CASES: Final = [
    pytest.param(
        one, id=", ".join(one), marks=[] if one in CHOSEN or one.point == END else [pytest.mark.slow]
    )
    for world in WORLDS
    for one in (*(case for case in EVERY if case.world == world), Case(world, END, "nobody"))
]


@pytest.fixture(scope="module")
def jobs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    """All that are running."""
    calls = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    rig = Rig(tmp_path_factory.mktemp("matrix"))
    found = Jobs(rig, Counter(params["case"].world for params in calls if "case" in params))
    yield found
    found.close()
    rig.close()


@pytest.mark.parametrize("case", CASES)
def test_whatever_dies_every_step_is_as_if_it_had_not(jobs: Jobs, case: Case) -> None:
    job = jobs.struck(case.world)
    try:
        if case.point == END:
            jobs.compare_ends(case.world)
        else:
            job.suffer(case.point, case.victim)
    except BaseException:
        sys.stdout.write(job.told())
        jobs.forget(case.world)
        raise
