"""SIGKILL of the server at any time: what was acknowledged is there, nothing is doubled."""

from __future__ import annotations

import json
import sqlite3
import urllib.request
from contextlib import closing
from typing import TYPE_CHECKING, Any

from wandb_server import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from wandb_server import Client, Server


def counted(server: Server) -> int:
    with closing(sqlite3.connect(f"file:{server.data / 'server.sqlite'}?mode=ro", uri=True)) as db:
        return int(db.execute("SELECT count(*) FROM run_lines WHERE stream = 'history'").fetchone()[0])


def test_a_server_killed_while_history_streams_loses_and_doubles_nothing(
    own_server: Callable[..., tuple[Server, Client]],
) -> None:
    server, client = own_server()
    process = client.start("""
        import time
        with wandb.init(project="p", id="one") as run:
            for step in range(400):
                run.log({"loss": step}); time.sleep(0.01)
        tell(1)
    """)
    for goal in (1, 100):
        wait_for(lambda goal=goal: counted(server) >= goal or process.poll() is not None, "rows")
        server.kill()
        acknowledged = counted(server)
        server.start()
        assert counted(server) == acknowledged
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    told = client.run("""
        run = wandb.Api().run("ada/p/one")
        tell([run.state, [row["loss"] for row in run.scan_history()], run.summary["loss"]])
    """)
    assert told == ["finished", list(range(400)), 399]


def post(server: Server, key: str, message: dict[str, Any]) -> dict[str, Any]:
    """A file_stream message as the client sends it."""
    import base64

    credentials = base64.b64encode(f"api:{key}".encode()).decode()
    request = urllib.request.Request(
        f"{server.url}/files/ada/p/raw/file_stream",
        data=json.dumps(message).encode(),
        headers={"Authorization": f"Basic {credentials}", "Content-Type": "application/json"},
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return dict(json.load(answer))


def test_every_acknowledged_message_survives_every_kill(
    own_server: Callable[..., tuple[Server, Client]],
) -> None:
    server, client = own_server()
    credentials = client.key
    create = 'mutation M { upsertBucket(input: {name: "raw", modelName: "p"}) { inserted } }'
    graphql(server, credentials, create)
    for number in range(3):
        rows = [json.dumps({"_step": number * 10 + n}) for n in range(10)]
        chunk = {"files": {"wandb-history.jsonl": {"offset": number * 10, "content": rows}}}
        post(server, credentials, chunk)
        post(server, credentials, chunk)
        server.kill()
        server.start()
        assert counted(server) == (number + 1) * 10


def graphql(server: Server, key: str, query: str) -> Any:
    import base64

    credentials = base64.b64encode(f"api:{key}".encode()).decode()
    request = urllib.request.Request(
        f"{server.url}/graphql",
        data=json.dumps({"query": query, "operationName": ""}).encode(),
        headers={"Authorization": f"Basic {credentials}"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)["data"]
