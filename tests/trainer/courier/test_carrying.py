"""Sealed checkpoints get into the store once, whole, whatever goes wrong; what ranks wrote stays as it is."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from bench import put, put_on_nodes, tree

from mlenv import rows
from mlenv.ckpt import names, seal
from mlenv.courier import faults, pages
from mlenv.history import History
from mlenv_api.protocol import Tracking

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bench import Pod
    from wandb_server import Server

QUIET = pages.Report(tracking=Tracking())
"""Nothing is stored, nothing is wrong, and there is no run yet."""


class TestCarrying:
    def test_a_seal_is_committed_read_back_and_told(self, pod: Pod) -> None:
        whole = put(pod.folder, 100, metrics={"auc": 0.7})
        before = tree(pod.folder)
        pod.turn()
        assert pod.stored() == [(100, 1, False)]
        assert pages.read(pod.own, pages.REPORT, pages.Report) == QUIET
        pod.carry()
        assert pod.stored() == [(100, 1, True)]
        assert tree(pod.folder) == before
        report = pages.read(pod.own, pages.REPORT, pages.Report)
        assert report is not None
        assert report.uploaded is not None
        assert report.degraded is None
        assert (report.uploaded.step, report.uploaded.attempt) == (100, 1)
        assert report.uploaded.digest == seal.digest(whole)
        assert report.uploaded.artifact == f"ada/{pod.config.project}/ranker-uid-1-ckpt:v0"
        assert report.uploaded.url.endswith(f"/ada/{pod.config.project}/runs/uid-1")
        assert list(pod.spool.work.iterdir()) == []

    def test_the_newest_sane_one_of_an_attempt_has_an_alias_and_the_others_their_reasons(
        self, pod: Pod
    ) -> None:
        why = ("embedding_collapse: rows of net.weight are alike",)
        put(pod.folder, 100)
        put(pod.folder, 200)
        put(pod.folder, 300, insane=why)
        pod.carry()
        listed = pod.store._do("list", 60, place=place(pod), kind="checkpoint")
        found = {one["metadata"]["step"]: one for one in listed}
        assert {step: "sane-a1" in one["aliases"] for step, one in found.items()} == {
            100: False,
            200: True,
            300: False,
        }
        assert found[300]["metadata"]["sane"] is False
        assert found[300]["metadata"]["reasons"] == list(why)
        assert found[200]["metadata"]["sane"] is True
        report = pages.read(pod.own, pages.REPORT, pages.Report)
        assert report is not None
        assert report.uploaded is not None
        assert report.uploaded.step == 200
        put(pod.folder, 400)
        pod.carry()
        listed = pod.store._do("list", 60, place=place(pod), kind="checkpoint")
        assert [one["metadata"]["step"] for one in listed if "sane-a1" in one["aliases"]] == [400]

    def test_the_same_seal_twice_is_one_version(self, pod: Pod) -> None:
        put(pod.folder, 100)
        pod.turn()
        pod.restart()
        pod.carry()
        pod.restart()
        pod.carry()
        assert [one.name.rpartition(":")[2] for one in pod.store.heads()] == ["v0"]

    def test_the_newest_goes_first_and_only_what_is_wanted_goes(self, pod: Pod) -> None:
        for step in (1, 2, 3, 4, 5):
            put(pod.folder, step * 70)
        pod.turn()
        assert pod.stored() == [(350, 1, False)]
        pod.carry()
        steps = [step for step, _, verified in pod.stored() if verified]
        assert steps == [350, 280, 210, 140, 70]  # one an hour, for a day

    def test_older_ones_of_this_attempt_go_once_newer_ones_are_stored(self, pod: Pod) -> None:
        for step in (1, 2, 3):
            put(pod.folder, step)
        pod.carry()
        put(pod.folder, 4)
        pod.carry()
        assert [step for step, _, _ in pod.stored()] == [4, 3, 2]

    def test_a_courier_deletes_nothing_of_another_attempt(self, pod: Pod) -> None:
        for step in (1, 2):
            put(pod.folder, step)
        pod.carry()
        for step in (3, 4, 5):
            put(pod.folder, step, 2)
        pod.carry()
        stored = [(step, attempt) for step, attempt, _ in pod.stored()]
        assert stored == [(5, 2), (4, 2), (3, 2), (2, 1), (1, 1)]
        assert {one.which.step for one in pod.store.heads() if one.expires} == {1, 2}

    def test_two_couriers_of_two_attempts_at_once(self, pods: Callable[..., Pod]) -> None:
        old, new = pods("old"), pods("new")
        for step in (1, 3, 5):
            put(old.folder, step, 1)
            put(new.folder, step + 1, 2)
        for _ in range(8):
            old.turn()
            new.turn()
        stored = old.stored()
        assert {(6, 2, True), (5, 1, True), (4, 2, True)} <= set(stored)
        assert len(set(stored)) == len(stored)
        gone = [re.findall(r"step (\d+)\) is deleted", " ".join(one.said)) for one in (old, new)]
        assert all(int(step) % 2 == 1 for step in gone[0]), "the older one deleted the newer one's"
        assert all(int(step) % 2 == 0 for step in gone[1]), "the newer one deleted the older one's"

    def test_what_a_roll_back_left_behind_is_not_carried(self, pod: Pod) -> None:
        put(pod.folder, 1400, 1)
        put(pod.folder, 800, 2)
        pod.carry()
        assert pod.stored() == [(800, 2, True)]

    def test_another_jobs_checkpoint_is_not_carried(self, pod: Pod) -> None:
        put(pod.folder, 100, job="uid-2")
        pod.carry()
        assert pod.stored() == []

    def test_a_damaged_one_is_told_and_holds_up_no_other(self, pod: Pod) -> None:
        put(pod.folder, 100)
        put(pod.folder, 200)
        (pod.folder / names.folder(200, 1) / "state.json").write_bytes(b"{}")
        pod.carry()
        assert pod.stored() == [(100, 1, True)]
        report = pages.read(pod.own, pages.REPORT, pages.Report)
        assert report is not None
        assert report.degraded is not None
        assert report.degraded.reason == "CheckpointUnreadable"

    def test_one_that_goes_before_its_turn_is_no_fault(
        self, pod: Pod, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(pod.folder, 100)
        holds = pod.spool.hold

        def late(name: str) -> Path:
            shutil.rmtree(pod.folder / name)  # as ranks do that have sealed newer ones
            return holds(name)

        monkeypatch.setattr(pod.spool, "hold", late)
        pod.turn()
        assert "went before it was carried" in pod.said[-1]
        assert pages.read(pod.own, pages.REPORT, pages.Report) == QUIET

    def test_one_that_goes_while_it_is_carried_is_carried_all_the_same(self, pod: Pod) -> None:
        put(pod.folder, 100)
        pod.spool.look()
        held = pod.spool.hold(names.folder(100, 1))
        shutil.rmtree(pod.folder / names.folder(100, 1))
        assert len(tree(held)) == 3


class TestParts:
    def test_the_head_waits_for_every_part(self, pods: Callable[..., Pod]) -> None:
        first, second = pods("node-0"), pods("node-1", node=1)
        put_on_nodes([first.folder, second.folder], 100)
        first.turn()
        assert first.stored() == []
        assert "waits for the parts of node(s) 1" in first.said[-1]
        second.turn()
        first.turn()
        assert first.stored() == [], "a part counts once it was read back"
        second.carry()
        first.carry()
        assert first.stored() == [(100, 1, True)]
        (head,) = first.store.heads()
        assert [node for node, _ in head.parts] == [1]


FAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "503 at the commit": ("CommitArtifact", {"status": 503, "times": 6}),
    "429 with a wish": ("CreateArtifact", {"status": 429, "retry_after": "1", "times": 5}),
    "403 at the upload": ("upload", {"status": 403, "times": 2}),
    "cut off in an upload": ("upload", {"drop_after": 10_000, "times": 5}),
    "a lost answer to the commit": ("CommitArtifact", {"drop_after": 0, "times": 5}),
    "an error in words": ("CreateArtifact", {"error": "the store is full", "times": 1}),
    "a download cut off": ("download", {"drop_after": 100, "times": 5}),
    "slow": ("upload", {"delay": 0.5}),
}


QUICK = {"503 at the commit", "a lost answer to the commit", "403 at the upload"}


class TestFaults:
    @pytest.mark.parametrize(
        "fault", [one if one in QUICK else pytest.param(one, marks=pytest.mark.slow) for one in FAULTS]
    )
    def test_it_gets_there_in_the_end(self, pod: Pod, wandb: Server, fault: str) -> None:
        put(pod.folder, 100)
        before = tree(pod.folder)
        operation, rule = FAULTS[fault]
        wandb.fault(operation, **rule)
        pod.carry(turns=12)
        assert pod.stored() == [(100, 1, True)]
        assert tree(pod.folder) == before

    def test_a_wrong_key_is_told_at_once_and_mended_without_a_restart(self, pod: Pod, tmp_path: Any) -> None:
        good = pod.env["WANDB_API_KEY"]
        pod.env["WANDB_API_KEY"] = "f" * 40
        put(pod.folder, 100)
        pod.turn()
        report = pages.read(pod.own, pages.REPORT, pages.Report)
        assert report is not None
        assert report.degraded is not None
        assert report.degraded.reason == "StoreUnauthorized"
        assert "apiKeySecretRef" not in report.degraded.message
        assert "f" * 40 not in "".join([report.degraded.message, *pod.said])
        pod.env["WANDB_API_KEY"] = good
        pod.carry()
        assert pod.stored() == [(100, 1, True)]

    def test_a_server_that_is_away_is_told_after_a_while(self, pod: Pod, wandb: Server) -> None:
        put(pod.folder, 100)
        port, wandb.port = wandb.port, wandb.port
        wandb.kill()
        try:
            for _ in range(3):
                pod.turn()
        finally:
            wandb.start()
        assert wandb.port == port
        report = pages.read(pod.own, pages.REPORT, pages.Report)
        assert report is not None
        assert report.degraded is not None
        assert report.degraded.reason == "StoreUnreachable"
        pod.carry()
        report = pages.read(pod.own, pages.REPORT, pages.Report)
        assert report is not None
        assert report.degraded is None

    def test_once_the_pod_ends_a_server_that_was_away_is_asked_again_soon(
        self, pod: Pod, wandb: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Pauses of minutes, right while it runs, would use up the grace, and what is not stored is lost."""
        monkeypatch.setattr(faults, "FIRST_SECONDS", 2 * faults.MOST_SECONDS)
        put(pod.folder, 100)
        history = History(pod.own.parent / rows.FOLDER, rows.Head("uid-1", 1, 0))
        history.add(1, {"loss": 0.5}, 2, 0)
        history.close(0)
        wandb.kill()
        try:
            pod.turn()
        finally:
            wandb.start()
        pod.time += faults.HURRIED_SECONDS
        pod.courier.turn()
        assert pod.courier.fault is not None
        pod.courier.ending = pod.courier.scribe.last = True
        for _ in range(20):
            pod.courier.turn()
        assert (pod.courier.done, pod.courier.fault) == (True, None)
        assert pod.stored() == [(100, 1, True)]
        assert [one["step"] for one in pod.store.recorded(0, 10)] == [1]


class TestProcess:
    def test_once_carries_what_is_there(self, pod: Pod) -> None:
        put(pod.folder, 100)
        process = pod.process("--once")
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        assert pod.stored() == [(100, 1, True)]

    def test_once_fails_where_the_store_has_not_what_is_expected(self, pod: Pod) -> None:
        found = seal.digest(put(pod.folder, 100))
        for digest, code in ((found, 0), ("0" * 64, 1)):
            process = pod.process("--once", f"--expect={digest}")
            _, said = process.communicate(timeout=600)
            assert process.returncode == code, said
            assert ("not everything is stored: no checkpoint 000000000000" in said) is bool(code)

    @pytest.mark.parametrize("point", ["upload", "committed", "checking"])
    def test_killed_anywhere_the_next_one_goes_on(self, pod: Pod, point: str) -> None:
        put(pod.folder, 100)
        killed = pod.process("--once", MLENV_COURIER_KILL=point)
        killed.communicate(timeout=300)
        assert killed.returncode == -9
        pod.restart()
        pod.carry()
        assert pod.stored() == [(100, 1, True)]
        assert [one.name.rpartition(":")[2] for one in pod.store.heads()] == ["v0"]

    def test_told_to_end_it_carries_what_is_left(self, pod: Pod) -> None:
        process = pod.process()
        assert process.stderr is not None
        put(pod.folder, 100)
        while "is committed" not in process.stderr.readline():
            pass
        put(pod.folder, 200)
        process.terminate()
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        assert pod.stored() == [(200, 1, True), (100, 1, True)]


def place(pod: Pod) -> str:
    return f"ada/{pod.config.project}/ranker-uid-1-ckpt"
