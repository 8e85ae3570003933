"""A server that refuses, or is lost: what is wrong is told by its reason, and what is sealed gets there."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from bench import put, tree

from mlenv.ckpt import names
from mlenv.courier import failpoints, faults, pages
from mlenv_api.conditions import Reason

if TYPE_CHECKING:
    from pathlib import Path

    from bench import Pod
    from wandb_server import Server

REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "forbidden": ({"operation": "CreateArtifact", "status": 403}, "StoreForbidden"),
    "an expired key": ({"operation": "*", "status": 401}, "StoreUnauthorized"),
}
"""Each is a person's to mend, and told with the first failure."""


def degraded(pod: Pod) -> tuple[str, str]:
    """(reason, message) that beats tell; nothing: all is well."""
    found = pages.read(pod.own, pages.REPORT, pages.Report)
    assert found is not None
    return (found.degraded.reason, found.degraded.message) if found.degraded else ("", "")


class TestRefusing:
    @pytest.mark.parametrize("refusal", REFUSALS)
    def test_what_a_person_must_mend_is_told_at_once(self, pod: Pod, wandb: Server, refusal: str) -> None:
        whole = put(pod.folder, 100)
        before = tree(pod.folder)
        rule, reason = REFUSALS[refusal]
        wandb.fault(**rule)
        pod.turn()
        found, message = degraded(pod)
        assert found == reason
        assert faults.ADVICE[faults.Kind(reason)] in message
        assert Reason(found) in Reason
        wandb.clear_faults()
        pod.carry()
        assert degraded(pod) == ("", "")
        assert pod.stored() == [(100, 1, True)]
        assert tree(pod.folder) == before, whole.folder

    @pytest.mark.parametrize(("entity", "reason"), [("zoe", "StoreForbidden"), ("nobody", "StoreNotFound")])
    def test_a_place_that_is_not_ones_own_or_not_there_is_told_at_once(
        self, pod: Pod, wandb: Server, entity: str, reason: str
    ) -> None:
        if entity == "zoe":
            wandb.add_user(entity)
        put(pod.folder, 100)
        mine, pod.config = pod.config, replace(pod.config, entity=entity)
        pod.restart()
        pod.turn()
        assert degraded(pod)[0] == reason
        assert entity in degraded(pod)[1]
        pod.config = mine
        pod.restart()
        pod.carry()
        assert pod.stored() == [(100, 1, True)]

    @pytest.mark.parametrize(
        ("rule", "reason"),
        [({"status": 500}, "StoreFailing"), ({"status": 429, "retry_after": "1"}, "StoreRateLimited")],
        ids=["fails", "is busy"],
    )
    def test_what_may_pass_is_told_after_a_while(
        self, pod: Pod, wandb: Server, rule: dict[str, Any], reason: str
    ) -> None:
        put(pod.folder, 100)
        wandb.fault("CreateArtifact", **rule)
        told = []
        for _ in range(3):
            pod.turn()
            told.append(degraded(pod)[0])
        assert told == ["", "", reason]
        wandb.clear_faults()
        pod.carry()
        assert pod.stored() == [(100, 1, True)]

    def test_a_busy_server_is_left_alone_for_a_minute_also_when_there_is_little_time(self) -> None:
        busy = faults.classify("giving up: HTTP 429: slow down")
        for failures in (1, 20):
            wait = faults.delay(busy, failures, 0.0)
            assert wait >= faults.BUSY_SECONDS
            assert faults.hurried(busy, wait) == faults.BUSY_SECONDS


class TestKilled:
    def test_every_place_is_killed_at_by_some_test(self) -> None:
        """Here, in test_carrying, and in test_history."""
        assert set(failpoints.POINTS) == {"upload", "committed", "checking", "brought", "log", "logged"}

    def test_before_what_was_brought_has_its_name_it_is_brought_again(self, pod: Pod) -> None:
        whole = put(pod.folder, 100)
        pod.carry()
        before = tree(pod.folder)
        (pod.folder / whole.folder / "state.json").write_bytes(b"{}")
        pages.leave(pod.own, pages.Wanted(nonce="n", attempt=2))
        killed = pod.process("--once", MLENV_COURIER_KILL="brought")
        _, said = killed.communicate(timeout=300)
        assert killed.returncode == -9, said
        assert tree(pod.folder) == {}, "half of it would be taken for whole"
        pod.restart()
        pod.turn()
        assert tree(pod.folder) == before
        answer = pages.read(pod.own, pages.BROUGHT, pages.Brought)
        assert answer is not None
        assert (answer.name, answer.done) == (whole.folder, True)


class TestBringing:
    @pytest.mark.parametrize(
        "rule",
        [{"drop_after": 5000}, {"status": 403, "after": 2}, {"status": 401, "after": 2}],
        ids=["cut off", "forbidden", "expired"],
    )
    def test_what_cannot_be_had_now_is_not_passed_over(
        self, pod: Pod, wandb: Server, rule: dict[str, Any]
    ) -> None:
        """Or ranks would go on from an older one, or begin anew, for what passes in a minute."""
        for step in (100, 200):
            put(pod.folder, step)
        pod.carry()
        before = tree(pod.folder / names.folder(200, 1))
        shutil.rmtree(pod.folder)
        pod.folder.mkdir()
        pages.leave(pod.own, pages.Wanted(nonce="n", attempt=2))
        wandb.fault("download", **rule)
        pod.turn()
        answer = pages.read(pod.own, pages.BROUGHT, pages.Brought)
        assert answer is not None
        assert not answer.done, answer.words
        assert tree(pod.folder) == {}
        wandb.clear_faults()
        pod.turn()
        assert tree(pod.folder) == {
            f"{names.folder(200, 1)}/{name}": content for name, content in before.items()
        }

    def test_what_another_courier_brought_meanwhile_is_left_where_ranks_read_it(
        self, pod: Pod, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Of a pod that ends and one that begins, on one volume: both see the wish."""
        whole = put(pod.folder, 100)
        pod.carry()
        final = pod.folder / whole.folder
        final.rename(tmp_path / "brought")
        brings = pod.courier._fetcher._files

        def late(*args: Any) -> None:
            brings(*args)
            (tmp_path / "brought").rename(final)

        monkeypatch.setattr(pod.courier._fetcher, "_files", late)
        pages.leave(pod.own, pages.Wanted(nonce="n", attempt=2))
        before = (tmp_path / "brought" / names.SEAL).stat().st_ino
        pod.turn()
        answer = pages.read(pod.own, pages.BROUGHT, pages.Brought)
        assert answer is not None
        assert (answer.name, answer.done) == (whole.folder, True)
        assert (final / names.SEAL).stat().st_ino == before
        assert list(pod.own.glob("damaged-*")) == []


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("ChunkedEncodingError: ('Connection broken: IncompleteRead(5 bytes read)')", faults.Kind.AWAY),
        ("HTTPError: 403 Client Error: Forbidden for url: http://w <Response [403]>", faults.Kind.FORBIDDEN),
        ("HTTPError: 503 Server Error <Response [503]>", faults.Kind.BROKEN),
        ("read: OSError: [Errno 28] No space left on device", faults.Kind.LOCAL),
        ("write /tmp/x: no space left on device", faults.Kind.LOCAL),
        ("ValueError: Digest mismatch", faults.Kind.OTHER),
        ("CommError: permission denied", faults.Kind.FORBIDDEN),
        ("CommError: entity ads not found during upsertBucket", faults.Kind.MISSING),
        ("read: PermissionError: [Errno 13] Permission denied: '/spool/x'", faults.Kind.OTHER),
        ("AuthenticationError: Failed to verify credentials with http://w: user is gone", faults.Kind.KEY),
        ("AuthenticationError: Failed to verify credentials: after 2 attempt(s)", faults.Kind.OTHER),
    ],
)
def test_what_downloads_say_is_understood(text: str, kind: faults.Kind) -> None:
    assert faults.classify(text).kind is kind


def test_no_word_of_ours_is_unknown_to_the_operator() -> None:
    """It would be told as UploadFailed."""
    assert {one.value for one in faults.Kind} <= {one.value for one in Reason}
