from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from aiohttp import web

from mlenv_operator.kube import errors
from mlenv_operator.kube.client import PAGE, Client, Selection
from mlenv_operator.kube.leases import KubeLeaseStore
from mlenv_operator.kube.resources import LEASES, NODES, PODS, TOKEN_REVIEWS, TRAINING_JOBS
from mlenv_operator.kube.sources import KindSource, list_metadata
from mlenv_operator.kube.tokens import review_token
from mlenv_operator.kube.transport import load_configuration

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.operator.kube.conftest import FakeServer, Gate

POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "ns", "name": "a"}}


async def test_get_says_who_asks_and_authenticates(client: Client, server: FakeServer) -> None:
    server.answer(POD)
    assert await client.get(PODS, "ns", "a") == POD
    assert server.asked == [("GET", "/api/v1/namespaces/ns/pods/a", {}, None)]
    assert server.headers[0]["User-Agent"] == "mlenv-operator/test"
    assert server.headers[0]["Authorization"] == "Bearer secret"
    assert server.metrics.seen == [("get", "pods", 200)]


async def test_names_cannot_leave_their_place_in_the_path(client: Client, server: FakeServer) -> None:
    server.answer({})
    await client.get(TRAINING_JOBS, "ns", "../x?y")
    assert server.asked[0][1] == "/apis/mlenv.io/v1alpha1/namespaces/ns/trainingjobs/../x?y", "decoded again"


async def test_lists_come_in_pages(client: Client, server: FakeServer) -> None:
    server.answer({"metadata": {"resourceVersion": "7", "continue": "a=+/&"}, "items": [POD]})
    server.answer({"metadata": {"resourceVersion": "7"}, "items": None})
    pages = [page async for page in client.list_pages(PODS, Selection(label_selector="a=b,c in (d)"))]
    assert [(len(page.items), page.resource_version) for page in pages] == [(1, "7"), (0, "7")]
    assert [query for _, _, query, _ in server.asked] == [
        {"labelSelector": "a=b,c in (d)", "limit": str(PAGE)},
        {"labelSelector": "a=b,c in (d)", "limit": str(PAGE), "continue": "a=+/&"},
    ]


async def test_a_list_whose_token_is_too_old_is_gone(client: Client, server: FakeServer) -> None:
    server.answer({"metadata": {"continue": "x"}, "items": [POD]})
    server.status(410, "Expired")
    with pytest.raises(errors.Gone):
        _ = [page async for page in client.list_pages(PODS)]


async def test_metadata_only(client: Client, server: FakeServer) -> None:
    server.answer({"metadata": {}, "items": [{"metadata": {"name": "a", "uid": "1"}}]})
    assert await list_metadata(client, TRAINING_JOBS) == [{"name": "a", "uid": "1"}]
    assert server.headers[0]["Accept"] == "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
    server.answer(POD)
    await client.get(PODS, "ns", "a", metadata_only=True)
    assert server.headers[1]["Accept"] == "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


async def test_a_watch_cut_anywhere(client: Client, server: FakeServer) -> None:
    events = [{"type": kind, "object": POD} for kind in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK")]
    wire = b"".join(orjson.dumps(event) + b"\n" for event in events)
    server.stream(*(wire[at : at + 7] for at in range(0, len(wire), 7)))
    source = KindSource(client, NODES)
    assert [event async for event in source.watch("5")] == [(e["type"], POD) for e in events]
    method, path, query, _ = server.asked[0]
    assert (method, path) == ("GET", "/api/v1/nodes")
    assert query.pop("timeoutSeconds").isdigit()
    assert query == {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": "5"}


@pytest.mark.parametrize(
    ("code", "expected"), [(410, errors.Gone), (500, errors.Internal), (429, errors.Throttled)]
)
async def test_an_error_event_ends_a_watch(
    client: Client, server: FakeServer, code: int, expected: type[Exception]
) -> None:
    server.stream(orjson.dumps({"type": "ERROR", "object": {"kind": "Status", "code": code}}) + b"\n")
    with pytest.raises(expected):
        _ = [event async for event in client.watch(PODS, "1")]


async def test_a_watch_refused_at_once_and_one_broken_off(client: Client, server: FakeServer) -> None:
    server.status(410, "Gone")
    with pytest.raises(errors.Gone):
        _ = [event async for event in client.watch(PODS, "1")]

    async def break_off(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(orjson.dumps({"type": "ADDED", "object": POD}) + b'\n{"type": "ADD')
        assert request.transport is not None
        request.transport.abort()
        return response

    server.answers.append(break_off)
    seen: list[Any] = []
    with pytest.raises(errors.Unavailable):
        seen.extend([event async for event in client.watch(PODS, "1")])


async def test_writes(client: Client, server: FakeServer) -> None:
    for _ in range(6):
        server.answer(POD)
    await client.create(PODS, POD)
    await client.update_status(PODS, POD)
    await client.apply(PODS, POD, manager="mlenv-operator")
    await client.json_patch(PODS, "ns", "a", [{"op": "test", "path": "/x", "value": 1}])
    await client.merge_patch(PODS, "ns", "a", {"metadata": {"resourceVersion": "1"}}, subresource="status")
    await client.delete(PODS, "ns", "a", uid="u", grace_period_s=0)
    path = "/api/v1/namespaces/ns/pods"
    options = {"preconditions": {"uid": "u"}, "propagationPolicy": "Background", "gracePeriodSeconds": 0}
    assert server.asked == [
        ("POST", path, {"fieldValidation": "Strict"}, POD),
        ("PUT", f"{path}/a/status", {}, POD),
        ("PATCH", f"{path}/a", {"fieldManager": "mlenv-operator", "force": "true"}, POD),
        ("PATCH", f"{path}/a", {}, [{"op": "test", "path": "/x", "value": 1}]),
        ("PATCH", f"{path}/a/status", {}, {"metadata": {"resourceVersion": "1"}}),
        ("DELETE", f"{path}/a", {}, options),
    ]
    assert [headers["Content-Type"] for headers in server.headers] == [
        "application/json",
        "application/json",
        "application/apply-patch+yaml",
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/json",
    ]
    assert {code for _, _, code in server.metrics.seen} == {200}
    assert server.metrics.seen[1][:2] == ("update", "pods/status")


async def test_a_shut_gate_lets_nothing_through_but_reviews_and_what_has_no_gate(
    client: Client, server: FakeServer, gate: Gate
) -> None:
    gate.window = 0.0
    for write in (
        lambda: client.create(PODS, POD),
        lambda: client.update(PODS, POD),
        lambda: client.apply(PODS, POD, manager="m"),
        lambda: client.json_patch(PODS, "ns", "a", []),
        lambda: client.merge_patch(PODS, "ns", "a", {}),
        lambda: client.delete(PODS, "ns", "a", uid="u"),
    ):
        with pytest.raises(errors.LeaseLost, match="not sent"):
            await write()  # type: ignore[no-untyped-call]
    assert server.asked == []
    server.status(404, "NotFound")
    server.answer({"metadata": {"namespace": "ns", "name": "l", "resourceVersion": "1"}, "spec": {}})
    server.answer({})
    store = KubeLeaseStore(client.ungated(), "ns", "l")
    assert await store.read() is None
    await store.update(await store.create({}, {"a": "b"}))
    server.answer({"status": {"authenticated": True}})
    assert await review_token(client, "t", "us") == {"authenticated": True}
    assert [path for _, path, _, _ in server.asked[1:]] == [
        LEASES.path("ns"),
        LEASES.path("ns", "l"),
        TOKEN_REVIEWS.path(),
    ]
    assert server.asked[-1][3]["spec"] == {"token": "t", "audiences": ["us"]}


async def hang(_: web.Request) -> web.Response:
    await asyncio.Event().wait()
    return web.Response()


async def test_a_write_ends_while_the_gate_would_be_open(
    client: Client, server: FakeServer, gate: Gate
) -> None:
    gate.window = 0.05
    server.answers.append(hang)
    with pytest.raises(errors.ServerTimeout):
        await client.create(PODS, POD)


async def test_reads_are_tried_again_and_writes_are_not(client: Client, server: FakeServer) -> None:
    server.status(503)
    server.answer(b"<html>", 502)
    server.answer(POD)
    assert await client.get(PODS, "ns", "a") == POD
    server.status(503, retryAfterSeconds=1)
    with pytest.raises(errors.Unavailable):
        await client.create(PODS, POD)
    assert [code for _, _, code in server.metrics.seen] == [503, 502, 200, 503]


async def test_a_refusal_is_not_tried_again(client: Client, server: FakeServer) -> None:
    server.status(404, "NotFound", 'pods "a" not found')
    with pytest.raises(errors.NotFound, match=r'get pods ns/a: pods "a" not found \(404 NotFound\)'):
        await client.get(PODS, "ns", "a")


async def test_no_answer_in_time(hasty_client: Client, server: FakeServer) -> None:
    server.answers.append(hang)
    with pytest.raises(errors.ServerTimeout, match="no answer in time"):
        await hasty_client.create(PODS, POD)
    assert server.metrics.seen == [("create", "pods", 0)]


async def test_no_connection(unreachable_client: Client) -> None:
    with pytest.raises(errors.Unavailable, match="no connection"):
        await unreachable_client.create(PODS, POD)


async def test_errors_do_not_tell_the_token(client: Client, server: FakeServer) -> None:
    server.status(401, "Unauthorized", "Unauthorized")
    with pytest.raises(errors.Unauthorized) as caught:
        await client.get(PODS, "ns", "a")
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(caught.value)


async def test_a_token_that_is_rotated_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kubernetes.aio.config import incluster_config

    token, ca = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text("one")
    ca.write_text("x")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(ca))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    configuration, _ = await load_configuration(None)
    assert configuration.host == "https://[fd00::1]:443"
    assert await configuration.get_api_key_with_prefix("BearerToken") == "bearer one"
    token.write_text("two")
    hook = configuration.refresh_api_key_hook
    loader = hook.__closure__[0].cell_contents
    loader.token_expires_at = loader.token_expires_at.min
    assert await configuration.get_api_key_with_prefix("BearerToken") == "bearer two"
