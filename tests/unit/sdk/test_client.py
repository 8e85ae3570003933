from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.unit.sdk.conftest import JOBS, Answer, Request, Server, complete, event, job, write_kubeconfig

from mlenv_sdk import (
    AlreadyExists,
    Client,
    ConfigError,
    Forbidden,
    InvalidManifest,
    JobEnded,
    MlenvError,
    NotFound,
    NotInstalled,
    Refused,
    Rejected,
    TrainingJob,
    Unauthorized,
    Unavailable,
    Unreachable,
    Unreadable,
)

if TYPE_CHECKING:
    from pathlib import Path


def status(reason: str, message: str, code: int, **details: object) -> Answer:
    return Answer({"kind": "Status", "reason": reason, "message": message, "details": details}, code)


def test_submit_sends_a_mapping_as_it_is_and_asks_for_strict_checks(client: Client, server: Server) -> None:
    server.answers(Answer(job(), 201))
    made = client.submit({"metadata": {"name": "ranker"}, "spec": {"trainr": 1}})
    request = server.requests[0]
    assert (request.method, request.path) == ("POST", JOBS)
    assert request.query["fieldValidation"] == "Strict"
    assert request.headers["authorization"] == "Bearer sesame"
    assert request.headers["User-Agent"].startswith("mlenv-sdk/")
    assert request.body["kind"] == "TrainingJob"
    assert request.body["spec"] == {"trainr": 1}
    assert made.metadata.uid == "uid-ranker"


def test_submit_sends_only_what_was_set_of_a_typed_job(client: Client, server: Server) -> None:
    server.answers(Answer(job(), 201))
    client.submit(
        TrainingJob.from_manifest({"metadata": {"name": "r"}, "spec": {"trainer": {"image": "x:1"}}})
    )
    assert server.requests[0].body == {
        "apiVersion": "mlenv.io/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": "r"},
        "spec": {"trainer": {"image": "x:1"}},
    }


def test_submit_uses_the_namespace_of_the_manifest(client: Client, server: Server) -> None:
    server.answers(Answer(job(), 201))
    client.submit({"metadata": {"name": "r", "namespace": "other"}, "spec": {}})
    assert server.requests[0].path == JOBS.replace("/team/", "/other/")


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ({"kind": "TrainingJob"}, "metadata"),
        ({"kind": "Job", "metadata": {"name": "x"}}, "This is a Job"),
        ({"apiVersion": "v1", "metadata": {"name": "x"}}, 'apiVersion "v1"'),
    ],
)
def test_what_is_no_job_is_not_sent(
    client: Client, server: Server, manifest: dict[str, object], words: str
) -> None:
    with pytest.raises(InvalidManifest, match=words):
        client.submit(manifest)
    assert server.requests == []


def test_a_bad_manifest_names_its_fields() -> None:
    with pytest.raises(InvalidManifest, match=r"spec\.trainer\.numNodes: .* greater than or equal to 1"):
        TrainingJob.from_manifest({"metadata": {"name": "r"}, "spec": {"trainer": {"numNodes": 0}}})


def test_get_suspend_resume_delete(client: Client, server: Server) -> None:
    server.answers(Answer(job()), Answer(job()), Answer(job()), Answer({"kind": "Status"}))
    assert client.get("ranker").spec.trainer.num_nodes == 2
    client.suspend("ranker")
    client.resume("ranker")
    client.delete("ranker")
    get, suspend, resume, delete = server.requests
    assert {one.path for one in server.requests} == {f"{JOBS}/ranker"}
    assert get.method == "GET"
    assert (suspend.method, suspend.body) == ("PATCH", {"spec": {"suspend": True}})
    assert suspend.headers["Content-Type"] == "application/merge-patch+json"
    assert resume.body == {"spec": {"suspend": False}}
    assert (delete.method, delete.query["propagationPolicy"]) == ("DELETE", "Background")


MADE = {"step": 40, "attempt": 2, "digest": "a" * 64}


class Ordered:
    """A server on which a checkpoint is ordered; `then` is what comes of that."""

    def __init__(self, then: dict[str, Any] | None, **status: Any) -> None:
        self.then, self.status, self.at = then, status, ""

    def __call__(self, request: Request) -> Answer:
        if request.method == "PATCH":
            self.at = request.body["metadata"]["annotations"]["mlenv.io/checkpoint-requested-at"]
        if "watch" not in request.query:
            return Answer(self._job(1, {}))
        known = {} if self.then is None else {"request": {"requestedAt": self.at, **self.then}}
        states = self._job(2, {"request": {"requestedAt": "older"}}), self._job(3, known)
        return Answer(chunks=tuple(event("MODIFIED", one) for one in states))

    def _job(self, version: int, record: dict[str, Any]) -> dict[str, Any]:
        found = job(version=version, phase="Running", checkpoint=record, **self.status)
        gone = self.then is None and version == 3
        found["metadata"]["annotations"] = (
            {} if gone or not self.at else {"mlenv.io/checkpoint-requested-at": self.at}
        )
        return found


def test_a_checkpoint_is_ordered_and_awaited(client: Client, server: Server) -> None:
    server.script = Ordered({"sealed": MADE})
    made = client.checkpoint("ranker")
    assert (made.step, made.attempt) == (40, 2)
    (patch,) = (one for one in server.requests if one.method == "PATCH")
    assert patch.headers["Content-Type"] == "application/merge-patch+json"
    assert set(patch.body) == {"metadata"}


def test_an_order_that_nobody_can_obey_is_said(client: Client, server: Server) -> None:
    server.script = Ordered({"message": "launcher: None"})
    with pytest.raises(Refused, match="takes no checkpoint: launcher: None"):
        client.checkpoint("ranker")
    server.script = Ordered(None)
    with pytest.raises(Refused, match="taken back by somebody"):
        client.checkpoint("ranker")


def test_a_job_in_which_nothing_runs_gets_no_order(client: Client, server: Server) -> None:
    server.answers(Answer(complete()))
    with pytest.raises(JobEnded, match="takes no more checkpoints"):
        client.checkpoint("ranker")
    idle = job()
    idle["spec"]["suspend"] = True
    server.answers(Answer(idle))
    with pytest.raises(Refused, match="is suspended"):
        client.checkpoint("ranker")
    assert {one.method for one in server.requests} == {"GET"}


def test_list_reads_all_pages(client: Client, server: Server) -> None:
    server.answers(
        Answer({"metadata": {"continue": "more"}, "items": [job("a")]}), Answer({"items": [job("b")]})
    )
    assert [one.metadata.name for one in client.list(labels="team=x")] == ["a", "b"]
    assert server.requests[1].query["continue"] == "more"
    assert {one.query["labelSelector"] for one in server.requests} == {"team=x"}


def test_names_cannot_leave_their_place_in_the_path(client: Client, server: Server) -> None:
    server.answers(Answer(job()))
    client.get("../x")
    assert server.requests[0].path == f"{JOBS}/..%2Fx"


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (status("NotFound", "", 404, name="ranker"), NotFound, 'There is no job "ranker".'),
        (Answer("404 page not found", 404), NotInstalled, "does not know TrainingJobs"),
        (status("NotFound", "", 404, name="team", kind="namespaces"), NotFound, 'The namespace "team"'),
        (status("AlreadyExists", "", 409, name="ranker"), AlreadyExists, 'The job "ranker" exists already'),
        (status("Forbidden", "user x cannot", 403), Forbidden, "user x cannot"),
        (status("Unauthorized", "", 401), Unauthorized, "log in again"),
        (status("InternalError", "etcd is slow", 500), Unavailable, "etcd is slow"),
        (Answer("<html>", 200), Unreadable, "no JSON"),
        (Answer([1], 200), Unreadable, "no JSON object"),
        (Answer({"metadata": {"name": "r"}, "spec": 3}, 200), Unreadable, "upgrade mlenv-sdk"),
    ],
)
def test_every_answer_becomes_a_sentence(
    client: Client, server: Server, answer: Answer, error: type[MlenvError], words: str
) -> None:
    server.answers(answer)
    with pytest.raises(error) as raised:
        client.get("ranker")
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_rejection_lists_every_cause(client: Client, server: Server) -> None:
    causes = [
        {"field": "spec.trainer.numNodes", "message": "must be at least 1"},
        {"field": "<nil>", "message": "needs an image"},
    ]
    server.answers(status("Invalid", "long", 422, causes=causes))
    with pytest.raises(Rejected) as raised:
        client.submit({"metadata": {"name": "ranker"}})
    assert [cause.field for cause in raised.value.causes] == ["spec.trainer.numNodes", ""]
    assert str(raised.value) == (
        'The job "ranker" was rejected: spec.trainer.numNodes: must be at least 1; needs an image.'
    )


def test_nobody_listening_is_a_sentence(tmp_path: Path) -> None:
    kubeconfig = write_kubeconfig(tmp_path / "k", "http://127.0.0.1:1")
    with Client(kubeconfig) as client, pytest.raises(Unreachable) as raised:
        client.get("ranker")
    assert str(raised.value).startswith("The API server at http://127.0.0.1:1 does not answer (")
    assert "Connection refused" in str(raised.value)
    assert "object at 0x" not in str(raised.value)


def test_the_namespace_comes_from_the_context_unless_it_is_given(kubeconfig: Path) -> None:
    assert Client(kubeconfig).namespace == "team"
    assert Client(kubeconfig, context="two").namespace == "default"
    assert Client(kubeconfig, "mine").namespace == "mine"


def test_no_kubeconfig_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="mlenv local up"):
        Client()


@pytest.mark.parametrize("text", ["", "[]", "a: b", "{", "clusters: 3\ncontexts: x\nusers: []"])
def test_a_broken_kubeconfig_is_a_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"cannot be used|is no kubeconfig"):
        Client(path)


def test_an_unknown_context_is_a_sentence(kubeconfig: Path) -> None:
    with pytest.raises(ConfigError, match="three"):
        Client(kubeconfig, context="three")
