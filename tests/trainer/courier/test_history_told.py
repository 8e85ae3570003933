"""What else there is to tell of the job's run: what is wrong with it, which code and which image it is of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from trained import log, loss, report, tail, train
from wandb_server import Client, wait_for

from mlenv import rows
from mlenv.history import History
from mlenv.launch.beats import Beats
from mlenv_api import names
from mlenv_api.protocol import Answer

if TYPE_CHECKING:
    from bench import Pod
    from wandb_server import Server


class TestTrouble:
    def test_a_replay_that_differs_is_told_until_one_that_does_not(self, pod: Pod) -> None:
        train(pod, 1, 0, 30)
        assert until_told(pod, None) == ""
        train(pod, 2, 20, 45, off=0.01)
        found = until_told(pod, "HistoryDrift")
        path = f"ada/{pod.config.project}/uid-1"
        assert f"attempt 2 made steps again with another loss than {path} has recorded: loss differs" in found
        assert "first at step 21, by " in found
        assert "(up to 1% is taken for noise)" in found
        pod.restart()
        assert until_told(pod, "HistoryDrift") == found, "a new courier finds it again"
        train(pod, 3, 40, 50, 0, off=0.01)
        log(pod)
        assert report(pod).trouble is None

    @pytest.mark.parametrize("exact", [True, False])
    def test_a_program_that_asked_for_deterministic_kernels_is_held_to_the_last_bit(
        self, pod: Pod, *, exact: bool
    ) -> None:
        train(pod, 1, 0, 30)
        pod.turn()
        about = pod.own.parent / rows.FOLDER / rows.ABOUT
        about.write_text(json.dumps({"deterministic": exact}))
        train(pod, 2, 20, 45, 0, off=1e-9)
        log(pod)
        found = report(pod).trouble
        assert (found is not None) == exact
        assert found is None or "any difference is one" in found.message

    def test_history_that_is_not_logged_is_told_until_it_is(self, pod: Pod, wandb: Server) -> None:
        train(pod, 1, 0, 5)
        wandb.kill()
        try:
            assert "history is not logged to the job's run" in until_told(pod, "StoreUnreachable")
        finally:
            wandb.start()
        log(pod)
        assert report(pod).trouble is None

    def test_a_folder_that_takes_nothing_more_is_told_until_the_next_attempt(
        self, pod: Pod, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as full:
            full.setattr("mlenv.history.MAX_FOLDER", 0)
            full.setattr("mlenv.history.MAX_FILE", 1)
            written = History(pod.own.parent / rows.FOLDER, rows.Head("uid-1", 1, 0))
            for step in (1, 2):
                written.add(step, {"loss": loss(step)}, step * 2, 0)
                written.flush()
            written.close(None)
        said = until_told(pod, "HistoryStopped")
        assert said.startswith("attempt 1 writes no more history: ")
        assert said.endswith("make room, or mend the store")
        train(pod, 2, 0, 10, 0)
        log(pod)
        assert report(pod).trouble is None

    def test_a_file_that_its_courier_deletes_meanwhile_stops_no_history(self, pod: Pod) -> None:
        folder = pod.own.parent / rows.FOLDER
        folder.mkdir()
        (folder / rows.name(1, 0)).symlink_to(folder / "gone")  # listed, and not there when it is looked at
        train(pod, 2, 0, 5, 0)
        log(pod)
        assert tail(pod)["row"]["step"] == 5


def until_told(pod: Pod, reason: str | None, turns: int = 12) -> str:
    """What is said to be wrong, once it is for this reason; None: once nothing is."""
    for _ in range(turns):
        pod.turn()
        found = report(pod).trouble
        if (found and found.reason) == reason:
            return found.message if found else ""
    raise AssertionError(f"not told after {turns} turns: {report(pod)}")


CODE = {
    "commit": "9f2c" * 10,
    "remote": "https://git.example/ads/ranker.git",
    "branch": "wide",
    "dirty": True,
}


class TestCode:
    def test_the_run_says_of_which_commit_its_code_is(
        self, pod: Pod, wandb_and_key: tuple[Server, str], tmp_path: Path
    ) -> None:
        pod.config = replace(pod.config, code=CODE, image="registry/ranker@sha256:77aa")
        pod.restart()
        train(pod, 1, 0, 5, 0)
        log(pod)
        found = tail(pod)["config"]["mlenv"]
        assert (found["code"], found["image"]) == (CODE, "registry/ranker@sha256:77aa")
        user = Client(wandb_and_key[0], tmp_path, wandb_and_key[1])
        assert user.run(COMMIT, f"ada/{pod.config.project}/uid-1") == CODE["commit"]

    def test_the_run_says_what_its_image_was_once_the_operator_has_told_the_launcher(
        self, pod: Pod, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        train(pod, 1, 0, 5)
        pod.turn()
        assert "image_id" not in tail(pod)["config"]["mlenv"]
        monkeypatch.setenv(names.ENV_COURIER, str(pod.own))
        beats = Beats((), Path("token"), None, lambda _: None)
        for image in ("registry/ranker@sha256:77aa", ""):
            said = Answer(term=1, attempt=1, image=image).model_dump_json(by_alias=True)
            beats._answered(said.encode(), waits=False)
        for _ in range(3):
            pod.turn()

        def shown() -> str | None:  # without rows to wait for, the client sends it when it finds time
            found: str | None = tail(pod)["config"]["mlenv"].get("image_id")
            return found

        wait_for(lambda: shown() == "registry/ranker@sha256:77aa", "image in the run's config")

    def test_without_annotations_it_is_the_commit_that_the_program_names(self, pod: Pod) -> None:
        train(pod, 1, 0, 5, 0)
        (pod.own.parent / rows.FOLDER / rows.ABOUT).write_text(json.dumps({"commit": "77aa"}))
        log(pod)
        assert tail(pod)["config"]["mlenv"]["code"] == {"commit": "77aa"}


COMMIT = "tell(wandb.Api().run(sys.argv[1]).commit)"
