"""One message of a run's process: lines of its streams, its summary, and whether it is done."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mlenv_local.wandb_server import lines, runs
from mlenv_local.wandb_server.errors import Refused

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

STREAMS = {"wandb-history.jsonl": "history", "wandb-events.jsonl": "events", "output.log": "output"}
SUMMARY = "wandb-summary.json"


def receive(
    db: sqlite3.Connection, run: sqlite3.Row, message: Mapping[str, Any], writer: str = ""
) -> dict[str, Any]:
    """Store a message; what it is answered. All of it is stored, or nothing.

    `writer` names the process if it is one of several that write to the run at once.
    """
    runs.beat(db, run["id"])
    for name, chunk in (message.get("files") or {}).items():
        _chunk(db, run["id"], name, chunk, writer)
    if message.get("preempting"):
        runs.preempting(db, run["id"])
    if message.get("complete"):
        runs.finish(db, run["id"], int(message.get("exitcode") or 0))
    return {"stopped": True} if run["stop_requested"] and not message.get("complete") else {}


def _chunk(db: sqlite3.Connection, run: int, name: str, chunk: Mapping[str, Any], writer: str) -> None:
    offset, content = int(chunk.get("offset") or 0), chunk.get("content") or []
    if not isinstance(content, list) or not all(isinstance(line, str) for line in content):
        raise Refused(f"The content of {name} is no list of lines.")
    if name == SUMMARY and content:
        _summary(db, run, content[-1], writer)
    elif name in STREAMS and writer:
        lines.write_shared(db, run, STREAMS[name], writer=writer, offset=offset, content=content)
    elif name in STREAMS:
        lines.write(db, run, STREAMS[name], offset, content)
    if name == "wandb-events.jsonl":
        _latest_metrics(db, run, content)


def _summary(db: sqlite3.Connection, run: int, text: str, writer: str) -> None:
    """Keep the newest summary; of several writers, the newest value of each key."""
    summary = json.loads(text)
    if writer:
        stored = db.execute("SELECT summary FROM runs WHERE id = ?", (run,)).fetchone()[0]
        text = json.dumps(json.loads(stored) | summary)
    db.execute("UPDATE runs SET summary = ? WHERE id = ?", (text, run))


def _latest_metrics(db: sqlite3.Connection, run: int, content: list[str]) -> None:
    """Keep the newest value of each system metric at hand."""
    stored = db.execute("SELECT system_metrics FROM runs WHERE id = ?", (run,)).fetchone()[0]
    latest: dict[str, Any] = json.loads(stored)
    for line in content:
        latest |= lines.parse(line)
    db.execute("UPDATE runs SET system_metrics = ? WHERE id = ?", (json.dumps(latest), run))
