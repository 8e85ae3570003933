"""Runs as rows: made, changed, finished, stopped, rewound and deleted; what they log is in `lines`."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from mlenv_local.wandb_server import lines, projects
from mlenv_local.wandb_server.clock import now_ms
from mlenv_local.wandb_server.errors import NotFound, Refused

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from mlenv_local.wandb_server.accounts import User

_NAME = re.compile(r"[^/\\#?%:]{1,128}")
_SELECT = (
    "SELECT runs.*, projects.name AS project_name, entities.name AS entity_name, users.username AS username"
    " FROM runs JOIN projects ON projects.id = project_id JOIN entities ON entities.id = projects.entity_id"
    " LEFT JOIN users ON users.id = runs.user_id"
)
COLUMNS = {
    "displayName": "display_name",
    "description": "description",
    "notes": "notes",
    "groupName": "run_group",
    "jobType": "job_type",
    "commit": "commit_hash",
    "host": "host",
    "jobProgram": "program",
    "jobRepo": "repo",
    "sweep": "sweep",
    "config": "config",
    "summaryMetrics": "summary",
    "state": "state",
}
"""Fields of an UpsertBucket and where they are kept."""
LIVE = ("running", "preempting")
TRANSITIONS = {
    "pending": ("running", "failed", "crashed", "preempted", "pending"),
    "failed": ("pending", "running", "failed"),
}
"""States that the public API may set, and from which."""
_WORDS = (
    ("amber", "brave", "calm", "deft", "eager", "fleet", "glad", "hazy"),
    ("brook", "cedar", "dune", "ember", "fjord", "grove", "heron", "inlet", "lark", "meadow", "pine"),
)


def find(db: sqlite3.Connection, project: int, name: str) -> sqlite3.Row | None:
    """The run of that name in a project."""
    row: sqlite3.Row | None = db.execute(
        f"{_SELECT} WHERE project_id = ? AND runs.name = ?", (project, name)
    ).fetchone()
    return row


def by_id(db: sqlite3.Connection, user: User, run: int) -> sqlite3.Row:
    """The run of that row; NotFound or Forbidden otherwise."""
    row: sqlite3.Row | None = db.execute(f"{_SELECT} WHERE runs.id = ?", (run,)).fetchone()
    if row is None:
        raise NotFound(f"There is no run {run} on this server: it was deleted.")
    projects.by_id(db, user, row["project_id"])
    return row


def by_path(
    db: sqlite3.Connection, user: User, entity: str | None, project: str | None, name: str
) -> sqlite3.Row:
    """The run of that path; NotFound if there is none that the user may see."""
    row = find(db, projects.get(db, user, project, entity)["id"], name)
    if row is None:
        where = f"{entity or user.username}/{project or projects.DEFAULT}"
        raise NotFound(f"There is no run {name!r} in {where}.")
    return row


def all_of(db: sqlite3.Connection, project: int) -> list[sqlite3.Row]:
    """All runs of a project, the oldest first."""
    return db.execute(f"{_SELECT} WHERE project_id = ? ORDER BY runs.id", (project,)).fetchall()


def newest(db: sqlite3.Connection, project: int, first: int, skip: int) -> list[sqlite3.Row]:
    """Some runs of a project, the newest first."""
    order = "ORDER BY runs.created_ms DESC, runs.id DESC LIMIT ? OFFSET ?"
    return db.execute(f"{_SELECT} WHERE project_id = ? {order}", (project, first, skip)).fetchall()


def count(db: sqlite3.Connection, project: int) -> int:
    """How many runs a project has."""
    return int(db.execute("SELECT count(*) FROM runs WHERE project_id = ?", (project,)).fetchone()[0])


def state(row: sqlite3.Row, crashed_after: float) -> str:
    """What the run is doing: as it said last, unless it has been silent for too long."""
    if row["state"] in LIVE and now_ms() - row["heartbeat_ms"] > crashed_after * 1000:
        return "crashed"
    return str(row["state"])


def upsert(db: sqlite3.Connection, user: User, asked: Mapping[str, Any]) -> tuple[sqlite3.Row, bool]:
    """Make a run or change it: what is null stays as it is. By id it must exist; by name it may not."""
    if asked.get("id"):
        run = int(asked["id"])
        by_id(db, user, run)
        inserted = False
    else:
        run, inserted = _ensure(db, user, asked)
    _change(db, run, asked)
    if inserted:
        _fork(db, run)
    return by_id(db, user, run), inserted


def _ensure(db: sqlite3.Connection, user: User, asked: Mapping[str, Any]) -> tuple[int, bool]:
    name = asked.get("name") or ""
    if not _NAME.fullmatch(name):
        raise Refused(f"{name!r} is no run id: 1 to 128 characters, none of / \\ # ? % :")
    project, _ = projects.ensure(db, user, asked.get("modelName"), asked.get("entityName"))
    found = find(db, project["id"], name)
    if found is not None:
        # Whoever sends this is about to go on with the run: an order to stop was for the process before.
        db.execute("UPDATE runs SET stop_requested = 0 WHERE id = ? AND state != 'running'", (found["id"],))
        return found["id"], False
    columns = "(project_id, name, display_name, user_id, created_ms, heartbeat_ms)"
    values = (project["id"], name, _display_name(db, project["id"]), user.id, now_ms(), now_ms())
    row = db.execute(f"INSERT INTO runs {columns} VALUES (?, ?, ?, ?, ?, ?)", values).lastrowid  # noqa: S608
    assert row is not None
    return row, True


def _change(db: sqlite3.Connection, run: int, asked: Mapping[str, Any]) -> None:
    for field in ("config", "summaryMetrics"):
        _check_object(field, asked.get(field))
    changes = {column: asked[name] for name, column in COLUMNS.items() if asked.get(name) is not None}
    if asked.get("tags") is not None:
        changes["tags"] = json.dumps(asked["tags"])
    if changes:
        assignments = ", ".join(f"{column} = ?" for column in changes)
        db.execute(f"UPDATE runs SET {assignments} WHERE id = ?", (*changes.values(), run))  # noqa: S608


def _fork(db: sqlite3.Connection, run: int) -> None:
    """Give a run that begins as a fork the history of the other one, up to where they part."""
    row = db.execute("SELECT project_id, config FROM runs WHERE id = ?", (run,)).fetchone()
    internal = json.loads(row["config"]).get("_wandb") or {}
    branch = internal.get("value", internal).get("branch_point")
    if not branch:
        return
    parent = find(db, row["project_id"], branch["run_id"])
    if parent is None:
        raise NotFound(f"There is no run {branch['run_id']!r} in this project to fork from.")
    lines.inherit(db, parent["id"], run, int(branch["step"]))


def _check_object(field: str, text: str | None) -> None:
    if text is None:
        return
    try:
        value = json.loads(text)
    except ValueError as error:
        raise Refused(f"{field} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise Refused(f"{field} is no JSON object.")


def _display_name(db: sqlite3.Connection, project: int) -> str:
    """Two words and the run's number in its project."""
    number = db.execute("SELECT count(*) FROM runs WHERE project_id = ?", (project,)).fetchone()[0] + 1
    return "-".join([*(words[number % len(words)] for words in _WORDS), str(number)])


def beat(db: sqlite3.Connection, run: int) -> None:
    """The run's process was heard of: it runs, whatever it did before."""
    db.execute(
        "UPDATE runs SET heartbeat_ms = ?, state = 'running', exit_code = NULL WHERE id = ?", (now_ms(), run)
    )


def preempting(db: sqlite3.Connection, run: int) -> None:
    """The run's process says that it is about to be taken away."""
    db.execute("UPDATE runs SET state = 'preempting' WHERE id = ?", (run,))


def finish(db: sqlite3.Connection, run: int, exit_code: int) -> None:
    """The run's process has said that it is done, and how."""
    ended = "finished" if exit_code == 0 else "failed"
    db.execute(
        "UPDATE runs SET state = ?, exit_code = ?, stop_requested = 0, heartbeat_ms = ? WHERE id = ?",
        (ended, exit_code, now_ms(), run),
    )


def request_stop(db: sqlite3.Connection, run: int) -> None:
    """The next answer to the run's process tells it to stop; nothing for one that does not run."""
    marks = ", ".join("?" for _ in LIVE)
    db.execute(f"UPDATE runs SET stop_requested = 1 WHERE id = ? AND state IN ({marks})", (run, *LIVE))  # noqa: S608


def set_state(db: sqlite3.Connection, row: sqlite3.Row, wanted: str, crashed_after: float) -> None:
    """What the public API may say of a run; Refused for anything else."""
    now = state(row, crashed_after)
    if now not in TRANSITIONS.get(wanted, ()):
        raise Refused(f"Run {row['name']} is {now}: it cannot be set to {wanted!r}.")
    db.execute("UPDATE runs SET state = ? WHERE id = ?", (wanted, row["id"]))


def rewind(db: sqlite3.Connection, run: int, metric: str, value: float) -> None:
    """Forget what the run logged behind a step."""
    if metric != "_step":
        raise Refused(f"A run is rewound to a value of _step, not of {metric!r}.")
    lines.forget_behind(db, run, int(value))


def delete(db: sqlite3.Connection, run: int) -> None:
    """Delete a run with its lines and alerts; its files are the caller's to drop."""
    db.execute("DELETE FROM runs WHERE id = ?", (run,))
