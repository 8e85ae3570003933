from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.unit.sdk.conftest import Answer, Request, Script, Server, complete, event, failed, job

from mlenv_sdk import Client, JobEnded, NotFound, NotReady, TimedOut, Unreachable, watching
from mlenv_sdk.transport import split_lines

if TYPE_CHECKING:
    from collections.abc import Generator


def test_watch_yields_every_change_and_ends_with_the_job(client: Client, server: Server) -> None:
    bodies = job(version=2, phase="Running"), complete()
    server.answers(
        Answer(job()),
        Answer(job()),
        Answer(
            chunks=(event("MODIFIED", bodies[0]), event("MODIFIED", bodies[1]), event("DELETED", bodies[1]))
        ),
    )
    assert [one.phase for one in client.watch("ranker")] == ["Pending", "Running", "Complete"]
    assert server.requests[2].query["fieldSelector"] == "metadata.name=ranker"
    assert server.requests[2].query["resourceVersion"] == "1"


def test_lines_may_be_cut_anywhere(client: Client, server: Server) -> None:
    data = event("MODIFIED", complete())
    server.answers(
        Answer(job()), Answer(job()), Answer(chunks=tuple(data[i : i + 7] for i in range(0, len(data), 7)))
    )
    assert client.wait("ranker").complete


def test_split_lines_keeps_characters_whole() -> None:
    data = "über\nlängs\nrest".encode()
    assert list(split_lines(bytes([byte]) for byte in data)) == ["über", "längs", "rest"]


def test_a_broken_connection_is_made_anew_and_nothing_is_missed(
    client: Client, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "RETRY_SECONDS", 0.0)
    running = job(version=2, phase="Running")
    server.answers(
        Answer(job()),
        Answer(job()),
        Answer(chunks=(event("MODIFIED", running),), cut=True),
        Answer(failed()),  # it changed while nobody watched
    )
    seen = []
    for one in client.watch("ranker"):
        seen.append(one.phase)
        if one.finished:
            break
    assert seen == ["Pending", "Running", "Failed"]


def test_a_version_that_is_too_old_is_read_anew(client: Client, server: Server) -> None:
    gone = {"kind": "Status", "code": 410}
    server.answers(Answer(job()), Answer(job()), Answer(chunks=(event("ERROR", gone),)), Answer(complete()))
    assert client.wait("ranker").complete


def test_a_deletion_while_nobody_watched_ends_the_watch(client: Client, server: Server) -> None:
    missing = Answer({"reason": "NotFound", "details": {"name": "ranker"}}, 404)
    server.answers(Answer(job()), Answer(job()), Answer(chunks=()), missing)
    assert len(list(client.watch("ranker"))) == 1


def test_wait_for_what_can_no_longer_be(client: Client, server: Server) -> None:
    server.answers(Answer(failed()))
    with pytest.raises(JobEnded, match=r'"ranker" is Failed. It can no longer become Complete'):
        client.wait("ranker", "Complete")


def test_wait_for_a_deleted_job(client: Client, server: Server) -> None:
    server.answers(Answer(job()), Answer(job()), Answer(chunks=(event("DELETED", job()),)))
    with pytest.raises(NotFound, match="was deleted while it was waited for"):
        client.wait("ranker")


def test_wait_deleted_returns_when_another_job_has_the_name(client: Client, server: Server) -> None:
    another = job(version=5) | {"metadata": job()["metadata"] | {"uid": "other", "resourceVersion": "5"}}
    server.answers(Answer(job()), Answer(job()), Answer(another))
    client.wait_deleted("ranker")


def test_time_runs_out(client: Client, server: Server) -> None:
    server.script = lambda request: Answer(chunks=()) if "watch" in request.query else Answer(job())
    with pytest.raises(TimedOut, match=r"within 0\.2 s"):
        client.wait("ranker", timeout=0.2)


class Clock:
    """Time that passes only in sleep."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


class Away:
    """An API server that answers once and is away from then on."""

    def __init__(self) -> None:
        self.reads = 0

    def read(self) -> watching.Raw:
        self.reads += 1
        if self.reads > 1:
            raise Unreachable("away")
        return job()

    def stream(self, version: str, seconds: float) -> Generator[str, None, None]:
        raise NotImplementedError(version, seconds)


def test_an_api_server_that_stays_away_is_given_up_after_a_minute() -> None:
    clock, away = Clock(), Away()
    with pytest.raises(Unreachable):
        list(watching.changes(away, None, clock.now, clock.sleep))
    assert watching.GIVE_UP_SECONDS < clock.time < watching.GIVE_UP_SECONDS + 5


def pod(name: str, index: int, incarnation: int = 0, **status: object) -> dict[str, object]:
    annotations = {"mlenv.io/index": str(index), "mlenv.io/incarnation": str(incarnation)}
    return {
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"nodeName": "node-1"},
        "status": {"phase": "Running", **status},
    }


REASON = {"reason": "ImagePullBackOff", "message": "no such image"}
WAITING = {"containerStatuses": [{"state": {"waiting": REASON}}]}


def replaced_pods() -> Script:
    """First one pod, then its replacement, then the job is complete: each once the log before was read."""
    state: dict[str, Any] = {"pods": [pod("r-0-0", 0)], "job": job()}

    def script(request: Request) -> Answer:
        if not request.path.endswith("/log"):
            return Answer({"items": state["pods"]} if request.path.endswith("/pods") else state["job"])
        name = request.path.split("/")[-2]
        if name == "r-0-0":
            state["pods"] = [pod("r-0-1", 0, 1)]
        else:
            state["job"] = complete()
        return Answer(chunks=(f"hello from {name}\n".encode(),))

    return script


def test_logs_follow_the_pods_that_replace_each_other(
    client: Client, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlenv_sdk.logs.POLL_SECONDS", 0.0)
    server.script = replaced_pods()
    assert list(client.logs("ranker", follow=True)) == ["hello from r-0-0", "hello from r-0-1"]


def test_logs_take_the_newest_pod_of_the_slot(client: Client, server: Server) -> None:
    pods = [pod("r-1-2", 1, 2), pod("r-0-0", 0), pod("r-1-10", 1, 10)]
    server.answers(Answer({"items": pods}), Answer(chunks=(b"a\nb",)))
    assert list(client.logs("ranker", 1, tail=2)) == ["a", "b"]
    assert server.requests[1].path.endswith("/pods/r-1-10/log")
    assert server.requests[1].query["tailLines"] == "2"


def test_logs_of_a_pod_that_waits_say_why(client: Client, server: Server) -> None:
    refused = Answer({"reason": "BadRequest", "message": "container is waiting to start"}, 400)
    server.answers(Answer({"items": [pod("r-0-0", 0, phase="Pending", **WAITING)]}), refused)
    with pytest.raises(NotReady, match=r'"r-0-0" has no log yet: it is ImagePullBackOff. no such image'):
        list(client.logs("ranker"))


@pytest.mark.parametrize(
    ("index", "words"), [(7, "has 2 pods"), (1, "has no pod 1 now; its phase is Pending")]
)
def test_logs_of_no_pod(client: Client, server: Server, index: int, words: str) -> None:
    server.answers(Answer({"items": []}), Answer(job()))
    with pytest.raises(NotFound, match=words):
        list(client.logs("ranker", index))
