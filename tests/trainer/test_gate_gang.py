"""A gang whose state goes bad: all ranks end with 77, and the next attempt ends as if nothing had been."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from gangs import Gang, said, witness

if TYPE_CHECKING:
    from rig import Rig, Server


@pytest.mark.slow
def test_all_end_with_77_and_go_on_from_the_last_good_one(rig: Rig, server: Server) -> None:
    """A moment of rank 1 alone goes bad, so its weights do, and everybody's gradients after the next step."""
    whole = Gang(rig, server, "u", STEPS="40")
    whole.start()
    wanted = whole.until_done()
    gang = Gang(rig, server, STEPS="40", SPOIL="1:1:7")
    gang.start()
    for pod in range(2):
        gang.until_failed(pod)
        said(gang, f"rank {pod} failed with exit code 77: mlenv: the state is not finite", pod)
    assert [[one.name for one in gang.sealed(pod)] for pod in range(2)] == [["step-000000000005.a1"]] * 2
    gang.start()
    ends = gang.until_done()
    assert gang.went_on_from() == 5
    assert [end["weights"] for end in ends] == [end["weights"] for end in wanted]
    assert witness(ends) == witness(wanted)
    assert ended_at(gang) <= 31


@pytest.mark.slow
def test_what_goes_bad_in_the_last_step_is_no_success(rig: Rig, server: Server) -> None:
    """Rank 1 alone holds the number; all end with 77 and none with 0, and the next attempt ends well."""
    gang = Gang(rig, server, STEPS="13", SPOIL="1:1:13")
    gang.start()
    for pod in range(2):
        gang.until_failed(pod)
        said(gang, f"rank {pod} failed with exit code 77: mlenv: the state is not finite", pod)
    gang.start()
    assert {(end["step"], end["samples"]) for end in gang.until_done()} == {(13, 24 * 13)}
    assert gang.went_on_from() == 10


@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, {"SHARDS": "1"}], ids=["ddp", "fsdp"])
def test_what_is_not_sane_is_sealed_and_the_next_attempt_goes_on_before_it(
    rig: Rig, server: Server, how: dict[str, str]
) -> None:
    """A metric falls below its floor; the probe is asked by all ranks at every save, and changes nothing."""
    whole = Gang(rig, server, "u", STEPS="40", **how)
    whole.start()
    wanted = whole.until_done()
    gang = Gang(rig, server, STEPS="40", INSANE="7", **how)
    gang.start()
    for pod in range(2):
        gang.until_failed(pod)
        said(gang, f"rank {pod} failed with exit code 77: mlenv: the state is not sane: metric_floor", pod)
    sealed = [one.name for one in gang.sealed(0)]
    assert "step-000000000005.a1" in sealed
    assert len(sealed) > 1
    gang.start()
    ends = gang.until_done()
    assert gang.went_on_from() == 5
    assert [end["weights"] for end in ends] == [end["weights"] for end in wanted]
    assert witness(ends) == witness(wanted)


def ended_at(gang: Gang) -> Any:
    line = next(one for one in gang.text().splitlines() if "ended with exit code 77 at step" in one)
    return int(line.partition("at step ")[2].partition(",")[0])
