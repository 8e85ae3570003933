"""Which runs made and used which versions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlenv_local.wandb_server.artifacts.versions import VERSION
from mlenv_local.wandb_server.clock import now_ms
from mlenv_local.wandb_server.errors import Refused

if TYPE_CHECKING:
    import sqlite3


def use(db: sqlite3.Connection, run: int, artifact: sqlite3.Row, used_as: str | None) -> None:
    """A run has used a version; saying it again changes nothing."""
    if artifact["state"] == "DELETED":
        raise Refused(f"{artifact['sequence']}:v{artifact['version_index']} is deleted: no run can use it.")
    db.execute(
        "INSERT INTO artifact_uses VALUES (?1, ?2, ?3, ?4)"
        " ON CONFLICT DO UPDATE SET used_as = coalesce(?3, used_as)",
        (run, artifact["id"], used_as, now_ms()),
    )


def users(db: sqlite3.Connection, artifact: int) -> list[int | None]:
    """Runs that used a version, the first first."""
    query = "SELECT run_id FROM artifact_uses WHERE artifact_id = ? ORDER BY created_ms, run_id"
    return [row["run_id"] for row in db.execute(query, (artifact,))]


def inputs(db: sqlite3.Connection, run: int) -> list[sqlite3.Row]:
    """Versions that a run used, deleted ones too: they were used."""
    joined = f"{VERSION} JOIN artifact_uses u ON u.artifact_id = a.id"
    return db.execute(f"{joined} WHERE u.run_id = ? ORDER BY u.created_ms, a.id", (run,)).fetchall()


def outputs(db: sqlite3.Connection, run: int) -> list[sqlite3.Row]:
    """Versions that a run logged and that are there."""
    query = f"{VERSION} WHERE a.run_id = ? AND a.state = 'COMMITTED' ORDER BY a.id"
    return db.execute(query, (run,)).fetchall()
