"""What makes a project a registry: which artifact types it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlenv_local.wandb_server import projects, runs
from mlenv_local.wandb_server.artifacts import collections
from mlenv_local.wandb_server.clock import now_ms
from mlenv_local.wandb_server.errors import Conflict

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from mlenv_local.wandb_server.accounts import User
    from mlenv_local.wandb_server.blobs import Blobs


def settle(db: sqlite3.Connection, project: int, asked: Mapping[str, Any]) -> None:
    """Store what an upsert says of a project as a registry; types are added, never taken away."""
    for kind in asked.get("artifactTypes") or ():
        collections.type_id(db, project, kind["name"])
    if asked.get("allowAllArtifactTypesInRegistry") is None:
        return
    db.execute(
        "INSERT INTO registries VALUES (?1, ?2, ?3)"
        " ON CONFLICT (project_id) DO UPDATE SET all_types = ?2, updated_ms = ?3",
        (project, int(asked["allowAllArtifactTypesInRegistry"]), now_ms()),
    )


def takes_all(db: sqlite3.Connection, project: int) -> bool:
    """Whether every type may be linked into a project; so it is unless a registry says otherwise."""
    row = db.execute("SELECT all_types FROM registries WHERE project_id = ?", (project,)).fetchone()
    return row is None or bool(row["all_types"])


def rename(db: sqlite3.Connection, user: User, entity: str, old: str, new: str) -> int:
    """Give a project, registry or not, another name; returns its row."""
    row = projects.get(db, user, old, entity)
    if projects.find(db, user, new, entity) is not None:
        raise Conflict(f"There is a project {entity}/{new} already.")
    db.execute("UPDATE projects SET name = ? WHERE id = ?", (projects.checked_name(new), row["id"]))
    return int(row["id"])


def delete(db: sqlite3.Connection, blobs: Blobs, project: int) -> None:
    """Delete a project with its runs, files, artifacts and links; versions that it only links to stay."""
    for run in runs.all_of(db, project):
        blobs.drop(db, f"run/{run['id']}/")
        runs.delete(db, run["id"])
    db.execute("DELETE FROM projects WHERE id = ?", (project,))
