"""What a courier decides, without a store."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlenv.courier import config, faults, lastwords, naming, pages, plan, quiet
from mlenv.courier.errors import Unusable
from mlenv.courier.faults import Kind
from mlenv_api import names
from mlenv_api.protocol import LastWords, Tracking, Uploaded

START = datetime(2026, 1, 1, tzinfo=UTC)


def which(step: int, attempt: int = 1) -> plan.Identity:
    return plan.Identity(step, attempt, f"{step:032x}{attempt:032x}")


def sealed(step: int, attempt: int = 1, nodes: frozenset[int] = frozenset()) -> plan.Sealed:
    time = START + timedelta(minutes=step)
    return plan.Sealed(f"step-{step}", which(step, attempt), 10, time, good=True, nodes=nodes)


def version(step: int, attempt: int = 1, *, node: int = 0, verified: bool = True) -> plan.Version:
    time = START + timedelta(minutes=step)
    return plan.Version(f"c:v{step}", which(step, attempt), node, verified, 10, time, good=True)


class TestPlan:
    def test_what_is_committed_is_read_back_before_more_is_carried(self) -> None:
        actions = plan.decide(0, [sealed(1), sealed(2)], [version(2, verified=False)], [])
        assert actions == [plan.Check(version(2, verified=False)), plan.Upload(sealed(1))]

    def test_a_head_names_the_parts_it_was_waiting_for(self) -> None:
        one = sealed(5, nodes=frozenset({1, 2}))
        parts = [version(5, node=1), version(5, node=2, verified=False)]
        assert plan.decide(0, [one], [], parts) == [plan.Await(one, (2,))]
        parts = [version(5, node=1), version(5, node=2)]
        assert plan.decide(0, [one], [], parts) == [plan.Upload(one, ((1, "c:v5"), (2, "c:v5")))]

    def test_a_node_without_files_of_its_own_carries_nothing(self) -> None:
        assert plan.decide(1, [sealed(5)], [], []) == []
        one = sealed(5, nodes=frozenset({1}))
        assert plan.decide(1, [one], [], []) == [plan.Upload(one)]

    @given(
        st.sets(st.tuples(st.integers(1, 9), st.integers(1, 3)), max_size=12),
        st.sets(st.tuples(st.integers(1, 9), st.integers(1, 3)), max_size=12),
    )
    def test_nothing_that_counts_is_deleted(
        self, here: set[tuple[int, int]], there: set[tuple[int, int]]
    ) -> None:
        spool, heads = [sealed(*one) for one in here], [version(*one) for one in there]
        actions = plan.decide(0, spool, heads, [])
        newest = max((attempt for _, attempt in here), default=0)
        known = plan.uploaded(heads, spool)
        for one in actions:
            if isinstance(one, plan.Delete):
                assert one.version.which.attempt == newest
                assert known is not None
                assert one.version.which.order < known.which.order
            if isinstance(one, plan.Expire):
                assert one.version.which.attempt < newest

    @given(st.sets(st.tuples(st.integers(1, 9), st.integers(1, 3)), min_size=1, max_size=12))
    def test_the_newest_gets_there_and_then_nothing_is_left_to_do(self, here: set[tuple[int, int]]) -> None:
        spool, heads = [sealed(*one) for one in here], list[plan.Version]()
        for _ in range(100):
            actions = plan.decide(0, spool, heads, [])
            if not actions:
                break
            first = actions[0]
            if isinstance(first, plan.Upload):
                heads.append(version(*first.sealed.which.order, verified=False))
            elif isinstance(first, plan.Check):
                heads = [one for one in heads if one.which != first.version.which]
                heads.append(version(*first.version.which.order))
            elif isinstance(first, plan.Delete):
                heads.remove(first.version)
            else:
                heads = [one for one in heads if one.which != first.version.which]  # type: ignore[union-attr]
        known = plan.uploaded(heads, spool)
        alive = plan.living({one.which for one in spool})
        assert known is not None
        assert known.which == max(alive, key=lambda one: one.order)


class TestFaults:
    @pytest.mark.parametrize(
        ("text", "kind"),
        [
            ("returned error 401: nope", Kind.KEY),
            ("AuthenticationError: Failed to verify credentials with x: The API key is wrong.", Kind.KEY),
            ("http_status: 403", Kind.FORBIDDEN),
            ("HTTP 404: no such project", Kind.MISSING),
            ("giving up after 2 attempt(s) while retrying: HTTP 429: slow down", Kind.BUSY),
            ("while retrying: HTTP 503: fault", Kind.BROKEN),
            ("dial tcp 127.0.0.1:1: connect: connection refused", Kind.AWAY),
            ("tls: failed to verify certificate: x509", Kind.AWAY),
            ("most remaining uploads (1/1) have failed, giving up", Kind.OTHER),
        ],
    )
    def test_the_clients_words_are_told_apart(self, text: str, kind: Kind) -> None:
        assert faults.classify(text).kind is kind

    @pytest.mark.parametrize("kind", list(Kind))
    def test_what_to_do_is_said_within_what_a_status_holds(self, kind: Kind) -> None:
        said = faults.Fault(kind, "words " * 1000).sentence
        assert len(said) <= 400
        assert said.endswith(f"({faults.ADVICE[kind]})")

    def test_what_the_server_asks_for_is_obeyed(self) -> None:
        assert faults.delay(faults.classify("HTTP 429 Retry-After: 4000"), 1, 0.0) == 4000

    @given(st.integers(1, 10_000), st.floats(0, 1))
    def test_waits_grow_and_have_an_end(self, failures: int, jitter: float) -> None:
        wait = faults.delay(faults.Fault(Kind.BROKEN, ""), failures, jitter)
        assert 0 < wait <= faults.MOST_SECONDS


def test_a_key_that_is_not_there_is_named_by_its_secret(tmp_path: Path) -> None:
    where = {"entity": "a", "project": "p", "secret": "wandb", "key": "api-key"}
    found = config.read(
        {
            names.ENV_JOB_UID: "u",
            names.ENV_JOB_NAMESPACE: "team",
            names.ENV_COURIER: str(tmp_path / "courier"),
            names.ENV_WANDB: json.dumps(where),
            names.ENV_WANDB_KEY_FILE: str(tmp_path / "key"),
        }
    )
    words = 'key "api-key" of Secret "wandb" in namespace team is not there, or empty'
    for text in (None, " \n"):
        if text is not None:
            (tmp_path / "key").write_text(text)
        with pytest.raises(Unusable, match=re.escape(words)):
            found.key({})
    (tmp_path / "key").write_text("k" * 40 + "\n")
    assert found.key({}) == "k" * 40


@pytest.mark.parametrize(("text", "found"), [
    ('{"commit": "77aa", "dirty": false, "more": 1}', {"commit": "77aa", "dirty": False}),
    ('{"commit": true, "dirty": "no"}', {}),
    ("[]", {}),
    ("{", {}),
    ("", {}),
])  # fmt: skip
def test_what_is_said_of_the_code_is_taken_as_far_as_it_makes_sense(text: str, found: Any) -> None:
    where = json.dumps({"entity": "a", "project": "p"})
    env = {names.ENV_JOB_UID: "u", names.ENV_COURIER: "/c", names.ENV_WANDB: where, names.ENV_CODE: text}
    assert config.read(env).code == found


def test_the_client_gets_commit_and_remote_under_its_own_names() -> None:
    code = {"commit": "77aa", "remote": "git.example:ranker", "branch": "wide", "dirty": True}
    env = quiet.environment({"WANDB_GIT_COMMIT": "of another"}, Path("/f"), "key", "", code)
    assert (env["WANDB_GIT_COMMIT"], env["WANDB_GIT_REMOTE_URL"]) == ("77aa", "git.example:ranker")
    assert "WANDB_GIT_COMMIT" not in quiet.environment({"WANDB_GIT_COMMIT": "x"}, Path("/f"), "key", "")


def test_last_words_are_there_whenever_a_container_ends(tmp_path: Path) -> None:
    path = tmp_path / "termination-log"
    known = Uploaded(attempt=1, step=5, digest="a" * 64, artifact="a/p/x:v0")
    lastwords.leave(pages.Report(uploaded=known), path)
    assert not path.exists(), "outside of a container there is no such file"
    path.touch()
    for nothing in (pages.Report(), pages.Report(tracking=Tracking())):
        lastwords.leave(nothing, path)
        assert path.read_text() == ""
    run = Tracking(url="https://w.example/a/p/runs/u")
    lastwords.leave(pages.Report(tracking=run), path)
    assert LastWords.model_validate_json(path.read_text()) == LastWords(tracking=run)
    lastwords.leave(pages.Report(uploaded=known), path)
    assert LastWords.model_validate_json(path.read_text()).uploaded == known
    lastwords.leave(pages.Report(tracking=Tracking()), path)
    assert path.read_text() == "", "what was said before is not true any more"


def test_names_are_those_that_a_store_takes() -> None:
    name = naming.collection("a" * 200, "b" * 200)
    assert len(naming.parts(name)) <= 128
    assert naming.aliases("step-1.a2", 2, 3) == ("step-1.a2.node-3", "attempt-2.node-3")
    assert (naming.run("u", 0), naming.run("u", 2)) == ("u", "u-node-2")


def test_the_client_sees_proxies_and_no_stray_settings(tmp_path: pytest.TempPathFactory) -> None:
    base = {"WANDB_MODE": "offline", "HTTPS_PROXY": "http://proxy", "SSL_CERT_FILE": "/ca", "PATH": "/bin"}
    env = quiet.environment(base, Path("/f"), "key", "https://w")
    assert "WANDB_MODE" not in env
    assert (env["HTTPS_PROXY"], env["SSL_CERT_FILE"], env["WANDB_BASE_URL"]) == (
        "http://proxy",
        "/ca",
        "https://w",
    )
    assert env["WANDB_API_KEY"] == "key"
