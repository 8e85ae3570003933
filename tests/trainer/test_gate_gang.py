"""A gang whose state goes bad: all ranks end with 77, and the next attempt ends as if nothing had been."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import test_resume_gang
from rig import until
from test_resume_gang import Gang, witness

if TYPE_CHECKING:
    from rig import Rig, Server

SPOIL = """
        if job.attempt == 1 and run.step + 1 == 7 and job.rank == 1:
            with torch.no_grad():
                opt.state[next(net.parameters())]["exp_avg"].view(-1)[0] = float("nan")
"""


@pytest.mark.slow
def test_all_end_with_77_and_go_on_from_the_last_good_one(
    rig: Rig, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A moment of rank 1 alone goes bad, so its weights do, and everybody's gradients after the next step."""
    whole = Gang(rig, server, "u", STEPS="40")
    whole.start()
    wanted = whole.until_done()
    program = test_resume_gang.PROGRAM
    monkeypatch.setattr(
        test_resume_gang, "PROGRAM", program.replace("        opt.step()\n", "        opt.step()\n" + SPOIL)
    )
    gang = Gang(rig, server, STEPS="40")
    gang.start()
    for pod in range(2):
        gang.until_failed(pod)
        said = f"rank {pod} failed with exit code 77: mlenv: the state is not finite, and does not heal"
        until(lambda pod=pod, said=said: said in gang.text(pod), "the verdict")
    assert [[one.name for one in gang.sealed(pod)] for pod in range(2)] == [["step-000000000005.a1"]] * 2
    gang.start()
    ends = gang.until_done()
    assert gang.went_on_from() == 5
    assert [end["weights"] for end in ends] == [end["weights"] for end in wanted]
    assert witness(ends) == witness(wanted)
    assert ended_at(gang) <= 31


def ended_at(gang: Gang) -> Any:
    line = next(one for one in gang.text().splitlines() if "ended with exit code 77 at step" in one)
    return int(line.partition("at step ")[2].partition(",")[0])
