"""What stays in the store: parts as long as their head, the best one, and what somebody else took away."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from bench import put, put_on_nodes
from hypothesis import example, given, settings
from hypothesis import strategies as st
from resuming import Training, attempt
from test_decisions import sealed, version

import mlenv as ml
from mlenv.ckpt import names, retain
from mlenv.courier import pages, plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench import Pod
    from wandb_server import Server


class Two:
    """The couriers of two nodes and a store, as their plans have it; the spool keeps the newest two."""

    def __init__(self) -> None:
        self.steps = self.versions = 0
        self.heads: list[plan.Version] = []
        self.parts: list[plan.Version] = []

    @property
    def spool(self) -> list[plan.Sealed]:
        """What ranks have sealed, and not deleted."""
        return [sealed(step, nodes=frozenset({1})) for step in range(max(1, self.steps - 1), self.steps + 1)]

    def turn(self, node: int) -> bool:
        """The next thing that a node does; whether there was one."""
        actions = plan.decide(node, self.spool, self.heads, self.parts)
        first = next((one for one in actions if not isinstance(one, plan.Await)), None)
        if first is not None:
            self._do(node, first)
        return first is not None

    def _do(self, node: int, action: plan.Action) -> None:
        mine = self.parts if node else self.heads
        match action:
            case plan.Upload(wanted, parts):
                self.versions += 1
                made = version(wanted.which.step, node=node, verified=False)
                mine.append(replace(made, name=f"c{node}:v{self.versions}", parts=parts))
            case plan.Check(found):
                mine.remove(found)
                mine += [replace(found, verified=True)] if self.whole(found) else []
            case plan.Delete(old):
                mine.remove(old)
                gone = {name for _, name in old.parts}
                self.parts = [part for part in self.parts if part.name not in gone]
            case _:
                raise AssertionError(f"{action} in an attempt without a past")

    def whole(self, head: plan.Version) -> bool:
        """Whether all its parts are there."""
        return {name for _, name in head.parts} <= {one.name for one in self.parts if one.verified}


AHEAD = ["seal", 1, 1, 0, 0, *["seal", 1, 1] * 5, 1, 1]
"""Node 1 carries six checkpoints while node 0 carries one."""


class TestParts:
    @settings(deadline=None, max_examples=60)
    @given(st.lists(st.sampled_from(["seal", 0, 1]), max_size=80))
    @example(AHEAD)
    def test_whoever_is_slow_no_head_ever_loses_a_part(self, moves: list[Any]) -> None:
        two = Two()
        for move in moves:
            if move == "seal":
                two.steps += 1
            else:
                two.turn(move)
            assert all(two.whole(one) for one in two.heads if one.verified)
        for _ in range(200):
            if not any([two.turn(0), two.turn(1)]):
                break
        assert all(two.whole(one) for one in two.heads)
        if two.steps:
            assert max(one.which.step for one in two.heads if one.verified) == two.steps
        assert len(two.parts) <= len(two.heads) + plan.KEEP.newest + 1, "what never got a head goes, too"

    def test_what_an_older_attempt_left_expires_with_its_head(self) -> None:
        parts = [version(step, node=1) for step in range(1, 9)]
        head = replace(version(2), parts=((1, parts[1].name),))
        newest = version(20, 2)
        here = [sealed(20, 2, nodes=frozenset({1}))]

        def expire(old: plan.Version) -> set[int]:
            mine = [*parts, version(20, 2, node=1)]
            actions = plan.decide(1, here, [old, newest], mine)
            assert all(isinstance(one, plan.Expire) for one in actions)
            return {one.version.which.step for one in actions if isinstance(one, plan.Expire)}

        assert expire(head) == {1, 3, 4, 5, 6}
        assert expire(replace(head, expires=True)) == {1, 2, 3, 4, 5, 6}

    def test_a_node_that_is_ahead_takes_no_part_of_what_is_stored(self, pods: Callable[..., Pod]) -> None:
        first, second = pods("node-0"), pods("node-1", node=1)
        folders = [first.folder, second.folder]
        put_on_nodes(folders, 1)
        second.carry()
        first.carry()
        for step in (2, 3, 4):
            put_on_nodes(folders, step)
            second.carry()
        (head,) = first.store.heads()
        assert {name for _, name in head.parts} <= {one.name for one in first.store.parts()}
        first.carry()
        second.carry()
        assert [step for step, _, _ in first.stored()] == [4, 3, 2]
        assert sorted(one.which.step for one in first.store.parts()) == [2, 3, 4], "a part goes with its head"

    def test_a_head_whose_part_went_is_no_checkpoint_and_is_made_anew(self, pods: Callable[..., Pod]) -> None:
        first, second = pods("node-0"), pods("node-1", node=1)
        put_on_nodes([first.folder, second.folder], 1)
        second.carry()
        first.turn()
        (part,) = first.store.parts()
        second.store.delete(part)
        first.turn()
        assert first.stored() == []
        assert "the part of node 1" in first.said[-1]
        second.later().carry()
        first.carry()
        assert first.stored() == [(1, 1, True)]
        (head,) = first.store.heads()
        assert [name for _, name in head.parts] == [one.name for one in first.store.parts()]

    def test_a_part_that_went_and_came_back_is_found(self, pods: Callable[..., Pod]) -> None:
        first, second = pods("node-0"), pods("node-1", node=1)
        whole = put_on_nodes([first.folder, second.folder], 1)
        second.carry()
        first.carry()
        (part,) = first.store.parts()
        second.store.delete(part)
        second.later().carry()
        (again,) = first.store.parts()
        assert again.name != part.name
        shutil.rmtree(first.folder / whole.folder)
        pages.leave(first.own, pages.Wanted(nonce="n", attempt=2))
        first.turn()
        answer = pages.read(first.own, pages.BROUGHT, pages.Brought)
        assert answer is not None
        assert answer.name == whole.folder, answer.words


class TestBest:
    @pytest.mark.parametrize(
        ("metric", "gone"),
        [("", {1, 2, 3, 4}), ("auc", {1, 3, 4}), ("-auc", {1, 2, 4}), ("other", {1, 2, 3, 4})],
    )
    def test_it_stays_whatever_its_age(self, metric: str, gone: set[int]) -> None:
        auc: dict[int, float | str] = {1: 0.6, 2: 0.9, 3: 0.1, 4: "NaN", 5: 0.5, 6: 0.6, 7: 0.7}
        heads = [replace(version(step), metrics={"auc": value}) for step, value in auc.items()]
        actions = plan.decide(0, [sealed(7)], heads, [], metric)
        assert {one.version.which.step for one in actions if isinstance(one, plan.Delete)} == gone

    def test_one_that_is_not_sane_is_not_the_best(self) -> None:
        auc = {1: 0.6, 2: 0.9, 3: 0.1, 4: 0.2, 5: 0.3, 6: 0.4}
        heads = [replace(version(step), metrics={"auc": value}) for step, value in auc.items()]
        heads[1] = replace(heads[1], good=False, sane=False)
        actions = plan.decide(0, [sealed(6)], heads, [], "auc")
        assert {one.version.which.step for one in actions if isinstance(one, plan.Delete)} == {2, 3}

    def test_a_store_keeps_what_the_program_calls_the_best(self, pod: Pod) -> None:
        pages.keep(pod.own, "auc")
        others = {f"metric{number}": 0.5 for number in range(60)}
        for step, auc in enumerate((0.5, 0.9, 0.6, 0.7, 0.8), 1):
            put(pod.folder, step, metrics={**others, "auc": auc})
            pod.carry()
        assert [step for step, _, _ in pod.stored()] == [5, 4, 3, 2]

    @pytest.mark.usefixtures("alone")
    def test_a_program_says_which_metric_that_is(self, pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
        assert pages.metric(pod.own) == ""
        for number, keep in enumerate((retain.Policy(metric="-loss"), retain.Policy()), 1):
            with attempt(pod, monkeypatch, number, carries=False):
                one = Training(pod, number)
                monkeypatch.setenv("MLENV_STORE_PATIENCE", "0.1")
                policy = ml.Checkpoints(every_steps=2, keep=keep)
                with ml.Session(one.job, report_every=0, checkpoint=policy, net=one.net, opt=one.opt):
                    pass
            assert pages.metric(pod.own) == (keep.metric or "")


class TestTakenAway:
    def test_what_somebody_deleted_is_carried_again_while_it_is_here(self, pod: Pod) -> None:
        put(pod.folder, 100)
        put(pod.folder, 200)
        pod.carry()
        pod.store.delete(max(pod.store.heads(), key=lambda one: one.which.step))
        assert pod.stored() == [(100, 1, True)]
        pod.carry()
        assert pod.stored() == [(100, 1, True)], "what is settled costs nothing"
        pod.later().carry()
        assert pod.stored() == [(200, 1, True), (100, 1, True)]

    @pytest.mark.parametrize("rule", [{"error": "it is protected"}, {"status": 403}], ids=["said", "403"])
    def test_what_may_not_be_deleted_holds_up_nothing(
        self, pod: Pod, wandb: Server, rule: dict[str, Any]
    ) -> None:
        wandb.fault("DeleteArtifact", **rule)
        for step in (1, 2, 3, 4, 5):
            put(pod.folder, step)
            pod.carry()
        assert [step for step, _, verified in pod.stored() if verified] == [5, 4, 3, 2, 1]
        told = [one for one in pod.said if "stays in the store" in one]
        assert len(told) == 2, "each is said once"
        report = pages.read(pod.own, pages.REPORT, pages.Report)
        assert report is not None
        assert report.degraded is None

    def test_half_of_what_was_read_back_takes_no_room(self, pod: Pod, wandb: Server) -> None:
        put(pod.folder, 100)
        pod.turn()
        (pod.spool.work / "read-back").mkdir()
        (pod.spool.work / "read-back" / "half").write_bytes(b"what a client leaves that is killed")
        wandb.fault("download", status=403)
        pod.turn()
        assert pod.courier.fault is not None
        assert list(pod.spool.work.iterdir()) == []

    def test_the_client_keeps_no_copies(self, pod: Pod) -> None:
        size = 3_000_000
        for step in (1, 2, 3):
            put(pod.folder, step, size=size)
        pod.carry()
        home = Path(pod.store._folder.name)
        assert sum(one.stat().st_size for one in home.rglob("*") if one.is_file()) < size

    def test_of_damaged_checkpoints_one_is_put_aside(self, pod: Pod) -> None:
        for step in (100, 200):
            put(pod.folder, step)
        pod.carry()
        for step in (100, 200):
            (pod.folder / names.folder(step, 1) / names.STATE).write_bytes(b"{}")
        newest = self._bring(pod, "first")
        assert newest.name == names.folder(200, 1)
        assert self._bring(pod, "second", newest.digest).name == names.folder(100, 1)
        assert [one.name for one in pod.own.glob("damaged-*")] == [f"damaged-{names.folder(100, 1)}"]

    def _bring(self, pod: Pod, nonce: str, *tried: str) -> pages.Brought:
        pages.leave(pod.own, pages.Wanted(nonce=nonce, attempt=2, tried=tried))
        pod.turn()
        brought = pages.read(pod.own, pages.BROUGHT, pages.Brought)
        assert brought is not None
        assert brought.nonce == nonce
        return brought
