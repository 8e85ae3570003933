"""Gangs whose weights are shards (FSDP2), without a shared volume: each node keeps its own part."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from gangs import STEPS, Gang, steps

if TYPE_CHECKING:
    from rig import Rig, Server

pytestmark = pytest.mark.slow


def test_a_killed_gang_goes_on_and_makes_the_same_steps(rig: Rig, server: Server) -> None:
    whole = Gang(rig, server, "u", SHARDS="1")
    whole.start()
    whole.until_done()
    gang = Gang(rig, server, SHARDS="1", DIE="1:1:13", SETTLED="1")
    gang.start()
    for pod in range(2):
        gang.until_failed(pod)
    kept = [[one.name for one in gang.sealed(pod)] for pod in range(2)]
    assert kept[0] == kept[1] != []
    gang.start()
    gang.until_done()
    start = gang.went_on_from()
    assert start in (5, 10)
    wanted = steps(whole.out, 1)
    assert len(wanted) == STEPS
    for attempt in (1, 2):
        for number, one in steps(gang.out, attempt).items():
            assert one == wanted[number], f"step {number} of attempt {attempt}"
    assert [*steps(gang.out, 2)] == [*range(start + 1, STEPS + 1)]


@pytest.mark.parametrize("lost", [0, 1])
def test_with_a_node_its_shards_are_lost_and_nothing_is_started_over_that(
    rig: Rig, server: Server, lost: int
) -> None:
    """A person must say so (`resume.policy: Never`), and then the operator says since when they count."""
    gang = Gang(rig, server, SHARDS="1", DIE="1:1:13")
    gang.start()
    for pod in range(2):
        gang.until_failed(pod)
    shutil.rmtree(gang.folder(lost))
    for pod in range(2):
        server.say(f"p{pod}", 1, stored_evidence=9)
    gang.start()
    for pod in range(2):
        gang.until_failed(pod)
        now = server.wait(f"p{pod}", lambda b: b.attempt == 2 and bool(b.evidence), "evidence")
        assert now.evidence[0].exit_code == 78
        assert f"shards/__{lost}_0.distcp is missing" in now.evidence[0].message
        assert "nothing is started afresh over a past" in now.evidence[0].message
        server.say(f"p{pod}", 2, stored_evidence=99)
    gang.more = {"since_attempt": 3}
    gang.start()
    assert {(end["step"], end["samples"]) for end in gang.until_done()} == {(STEPS, 24 * STEPS)}
    assert gang.text().count("fresh start at step 0") == 2
