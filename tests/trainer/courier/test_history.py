"""The job's run holds each committed step once, in order, whoever was killed meanwhile."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import textwrap
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from trained import log, loss, report, tail, train
from wandb_server import Client, wait_for

from mlenv import rows
from mlenv.courier import pages
from mlenv.history import History
from mlenv.launch.beats import Beats
from mlenv_api import names
from mlenv_api.protocol import Beat, Tracking

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench import Pod
    from wandb_server import Server


def history(pod: Pod) -> list[dict[str, Any]]:
    """What the run holds, by the public API, without the client's own keys."""
    last, _ = pod.store.tail()
    found = pod.store.recorded(0, last["_step"] if last else 0)
    return [
        {key: value for key, value in one.items() if key not in {"_timestamp", "_runtime"}} for one in found
    ]


def undisturbed(end: int) -> list[dict[str, Any]]:
    return [
        {"_step": step, "step": step, "loss": loss(step), "samples": step * 2, "epoch": 0}
        for step in range(1, end + 1)
    ]


def same(pod: Pod, end: int) -> None:
    """Row by row; `_step` begins anywhere, and goes up by one."""
    found = history(pod)
    first = found[0]["_step"]
    expected = [{**one, "_step": one["_step"] - 1 + first} for one in undisturbed(end)]
    assert found == expected


class TestHistory:
    def test_steps_are_in_the_run_once(self, pod: Pod) -> None:
        train(pod, 1, 0, 30, 0)
        log(pod)
        same(pod, 30)
        assert tail(pod)["config"]["mlenv"]["uid"] == "uid-1"

    def test_replayed_steps_are_not_logged_again_but_compared(self, pod: Pod) -> None:
        train(pod, 1, 0, 30)
        pod.turn()
        train(pod, 2, 20, 45, 0)
        log(pod)
        same(pod, 45)
        assert not any("differs" in one for one in pod.said)

    def test_a_replay_that_differs_is_told(self, pod: Pod) -> None:
        train(pod, 1, 0, 30)
        pod.turn()
        train(pod, 2, 20, 45, 0, off=0.001)
        log(pod)
        assert [one["step"] for one in history(pod)] == list(range(1, 46))
        assert any("replay differs from what was recorded at" in one for one in pod.said)

    def test_what_was_rolled_back_stays_and_the_new_branch_comes_behind_it(self, pod: Pod) -> None:
        train(pod, 1, 0, 30, 77)
        pod.turn()
        pod.turn()
        train(pod, 2, 10, 15, off=1.0)
        pod.turn()
        pod.restart()
        train(pod, 3, 12, 20, 0, off=1.0)
        log(pod)
        found = history(pod)
        assert [one["step"] for one in found] == [*range(1, 31), *range(11, 21)]
        assert len({one["_step"] for one in found}) == len(found)
        assert [one.get("mlenv/rollbacks", 0) for one in found] == [0] * 30 + [1] * 10
        assert not any("differs" in one for one in pod.said)

    def test_numbers_that_are_none_and_later_values_arrive(self, pod: Pod) -> None:
        written = History(pod.own.parent / rows.FOLDER, rows.Head("uid-1", 1, 0))
        written.add(1, {"loss": float("nan")}, 2, 0)
        written.note(1, {"auc": 0.75})
        written.close(0)
        log(pod)
        (row,) = history(pod)
        assert math.isnan(row["loss"])
        assert row["auc"] == 0.75


class TestPage:
    def test_the_page_is_told_with_the_first_rows_where_nothing_is_ever_stored(self, pod: Pod) -> None:
        pod.turn()
        assert report(pod) == Tracking(), "nothing is there yet"
        train(pod, 1, 0, 5)
        pod.turn()
        page = report(pod).url
        assert page == f"{pod.config.url}/ada/{pod.config.project}/runs/uid-1"
        pod.restart()
        train(pod, 2, 4, 8, 0)
        log(pod)
        assert report(pod).url == page

    def test_the_launcher_says_so_in_its_beats(self, pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
        train(pod, 1, 0, 5)
        pod.turn()
        monkeypatch.setenv(names.ENV_COURIER, str(pod.own))
        beats = Beats((), Path("token"), None, lambda _: None)
        assert beats._carried(Beat(protocol=1, time=datetime.now(UTC))).tracking == report(pod)

    def test_only_the_courier_that_writes_it_speaks_of_it(self, pods: Callable[..., Pod]) -> None:
        pod = pods("pod-1", 1)
        pod.turn()
        assert pages.read(pod.own, pages.REPORT, pages.Report) == pages.Report()


class TestEnds:
    @pytest.mark.parametrize(("code", "state"), [(0, "finished"), (1, "failed"), (None, "running")])
    def test_the_run_ends_as_the_program_did(
        self, pod: Pod, wandb_and_key: tuple[Server, str], tmp_path: Path, code: int | None, state: str
    ) -> None:
        train(pod, 1, 0, 5, code)
        process = pod.process("--once")
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        user = Client(wandb_and_key[0], tmp_path, wandb_and_key[1])
        assert user.run(STATE, f"ada/{pod.config.project}/uid-1") == state

    def test_a_programs_own_run_stands_beside_the_jobs(
        self, pod: Pod, wandb_and_key: tuple[Server, str], tmp_path: Path
    ) -> None:
        train(pod, 1, 0, 5, 0)
        user = Client(wandb_and_key[0], tmp_path, wandb_and_key[1])
        own, group = user.run(OWN, pod.config.project, WANDB_RUN_GROUP="uid-1")
        log(pod)
        same(pod, 5)
        assert own != "uid-1"
        assert group == "uid-1"


STATE = "tell(wandb.Api().run(sys.argv[1]).state)"
OWN = """
    run = wandb.init(project=sys.argv[1], entity="ada")
    run.log({"mine": 1})
    run.finish()
    tell([run.id, wandb.Api().run(run.path).group])
"""


class TestKills:
    @pytest.mark.parametrize("point", ["log", "logged"])
    def test_a_courier_killed_anywhere_leaves_no_hole(self, pod: Pod, point: str) -> None:
        train(pod, 1, 0, 20)
        killed = pod.process("--once", MLENV_COURIER_KILL=point)
        killed.communicate(timeout=300)
        assert killed.returncode == -9
        train(pod, 2, 15, 40, 0)
        pod.restart()
        log(pod)
        same(pod, 40)

    def test_a_trainer_killed_anywhere_leaves_whole_rows(self, tmp_path: Path, pod: Pod) -> None:
        folder = pod.own.parent / rows.FOLDER
        process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(PROGRAM), str(folder)])
        wait_for(lambda: sum(one.stat().st_size for one in folder.glob("*.rows")) > 30_000, "rows")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        log(pod)
        steps = [one["step"] for one in history(pod)]
        assert steps == list(range(1, len(steps) + 1))
        assert len(steps) > 100


PROGRAM = """
    import sys
    from pathlib import Path
    from mlenv import rows
    from mlenv.history import History
    history = History(Path(sys.argv[1]), rows.Head("uid-1", 1, 0))
    for step in range(1, 10**9):
        history.add(step, {"loss": 1.0 / step}, step, 0)
        history.flush()
        if step == 2000:
            sys.stdin.read()
"""


class TestAway:
    def test_a_server_that_is_away_a_third_of_the_time_gets_every_row(self, pod: Pod, wandb: Server) -> None:
        for part in range(3):
            train(pod, part + 1, max(0, part * 10 - 3), part * 10 + 10, 0 if part == 2 else None)
            if part == 1:
                wandb.kill()
                for _ in range(3):
                    pod.turn()
                wandb.start()
                assert pod.courier.scribe.fault is not None
            else:
                pod.turn()
        log(pod)
        same(pod, 30)

    def test_a_lost_answer_doubles_nothing(self, pod: Pod, wandb: Server) -> None:
        train(pod, 1, 0, 20, 0)
        wandb.fault("file_stream", drop_after=0, times=2)
        log(pod)
        same(pod, 20)


class TestTwo:
    def test_two_attempts_at_once(self, pods: Callable[..., Pod]) -> None:
        old, new = pods("old"), pods("new")
        train(old, 1, 0, 20)
        old.turn()
        train(new, 2, 10, 30)
        train(old, 1, 20, 40)
        new.turn()
        for _ in range(4):
            old.turn()
        train(new, 2, 30, 50, 0)
        log(new)
        same(new, 50)
        assert any("attempt 2 logs to the run: 1 leaves it alone" in one for one in old.said)
