"""SIGKILL of the server at any time: what was acknowledged is there, nothing is doubled."""

from __future__ import annotations

import base64
import json
import sqlite3
import urllib.request
from contextlib import closing
from typing import TYPE_CHECKING, Any

from wandb_server import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from wandb_server import Server


def counted(server: Server) -> int:
    with closing(sqlite3.connect(f"file:{server.data / 'server.sqlite'}?mode=ro", uri=True)) as db:
        return int(db.execute("SELECT count(*) FROM run_lines WHERE stream = 'history'").fetchone()[0])


def test_a_server_killed_while_history_streams_loses_and_doubles_nothing(own: Callable[..., Any]) -> None:
    there = own()
    with there.init(project="p", id="one") as run:
        for part in range(3):
            for step in range(part * 50, part * 50 + 50):
                run.log({"loss": step})
            wait_for(lambda part=part: counted(there.server) > part * 50, "rows")
            there.server.kill()
            acknowledged = counted(there.server)
            there.server.start()
            assert counted(there.server) >= acknowledged, "the client may have sent more by now"
    read = there.run("ada/p/one")
    assert (read.state, read.summary["loss"]) == ("finished", 149)
    assert [row["loss"] for row in read.scan_history()] == list(range(150))


def post(server: Server, key: str, message: dict[str, Any]) -> dict[str, Any]:
    """A file_stream message as the client sends it."""
    credentials = base64.b64encode(f"api:{key}".encode()).decode()
    request = urllib.request.Request(
        f"{server.url}/files/ada/p/raw/file_stream",
        data=json.dumps(message).encode(),
        headers={"Authorization": f"Basic {credentials}", "Content-Type": "application/json"},
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return dict(json.load(answer))


def test_every_acknowledged_message_survives_every_kill(own: Callable[..., Any]) -> None:
    there = own()
    server, key = there.server, there.client.key
    graphql(server, key, 'mutation M { upsertBucket(input: {name: "raw", modelName: "p"}) { inserted } }')
    for number in range(3):
        rows = [json.dumps({"_step": number * 10 + n}) for n in range(10)]
        chunk = {"files": {"wandb-history.jsonl": {"offset": number * 10, "content": rows}}}
        for _ in range(2):
            post(server, key, chunk)
        server.kill()
        server.start()
        assert counted(server) == (number + 1) * 10


def graphql(server: Server, key: str, query: str) -> Any:
    credentials = base64.b64encode(f"api:{key}".encode()).decode()
    request = urllib.request.Request(
        f"{server.url}/graphql",
        data=json.dumps({"query": query, "operationName": ""}).encode(),
        headers={"Authorization": f"Basic {credentials}"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)["data"]
