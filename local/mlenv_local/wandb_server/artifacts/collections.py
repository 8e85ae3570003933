"""Projects' artifact types and collections: found, made, renamed, moved, tagged, deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlenv_local.wandb_server import accounts, projects
from mlenv_local.wandb_server.artifacts import naming
from mlenv_local.wandb_server.clock import now_ms
from mlenv_local.wandb_server.errors import Conflict, NotFound, Refused

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from mlenv_local.wandb_server.accounts import User

SEQUENCE, PORTFOLIO = "SEQUENCE", "PORTFOLIO"
# The registries that every organisation has from the start.
CORE_REGISTRIES = frozenset({f"{naming.REGISTRY}model", f"{naming.REGISTRY}dataset"})

_COLLECTION = (
    "SELECT c.*, p.entity_id, p.name AS project, e.name AS entity, e.kind AS entity_kind, t.name AS type"
    " FROM artifact_collections c JOIN artifact_types t ON t.id = c.type_id"
    " JOIN projects p ON p.id = c.project_id JOIN entities e ON e.id = p.entity_id"
)


def project(db: sqlite3.Connection, user: User, entity: str | None, name: str) -> sqlite3.Row:
    """A project to write to, made if it is not there; a registry, the core ones apart, must be there."""
    owner = accounts.entity_to_write(db, user, entity)
    if owner["kind"] == "organization" and name not in CORE_REGISTRIES:
        return _registry(db, user, owner, name)
    return projects.ensure(db, user, name, owner["name"])[0]


def _registry(db: sqlite3.Connection, user: User, owner: sqlite3.Row, name: str) -> sqlite3.Row:
    row = projects.find(db, user, name, owner["name"])
    if row is None:
        raise NotFound(f"There is no registry {name!r}: make it with api.create_registry().")
    return row


def type_id(db: sqlite3.Connection, project_id: int, name: str) -> int:
    """The row of an artifact type, made if it is not there."""
    if not name or len(name) > naming.LONGEST:
        raise Refused(f"{name!r} cannot be an artifact type: 1 to {naming.LONGEST} characters.")
    db.execute(
        "INSERT INTO artifact_types (project_id, name, created_ms) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        (project_id, name, now_ms()),
    )
    query = "SELECT id FROM artifact_types WHERE project_id = ? AND name = ?"
    return int(db.execute(query, (project_id, name)).fetchone()["id"])


def by_id(db: sqlite3.Connection, user: User, collection: int, kind: str = "") -> sqlite3.Row:
    """A collection by its row, if the user may see it."""
    row: sqlite3.Row | None = db.execute(f"{_COLLECTION} WHERE c.id = ?", (collection,)).fetchone()
    if row is None or (kind and row["kind"] != kind) or not accounts.may_use(db, user, row["entity_id"]):
        raise NotFound(
            f"There is no artifact {(kind or 'collection').lower()} with that id, or it is not yours."
        )
    return row


def find(db: sqlite3.Connection, project_id: int, name: str) -> sqlite3.Row | None:
    """A collection that is not deleted, by its name."""
    query = f"{_COLLECTION} WHERE c.project_id = ? AND c.name = ? AND c.state = 'READY'"
    row: sqlite3.Row | None = db.execute(query, (project_id, name)).fetchone()
    return row


def named(db: sqlite3.Connection, user: User, entity: str, project_name: str, name: str) -> sqlite3.Row:
    """A collection by its path; NotFound says which."""
    holder = projects.find(db, user, project_name, entity)
    row = find(db, holder["id"], name) if holder else None
    if row is None:
        raise NotFound(f"There is no artifact collection {entity}/{project_name}/{name}.")
    return row


def listed(
    db: sqlite3.Connection, project_ids: Iterable[int], kinds: Iterable[str] = ()
) -> list[sqlite3.Row]:
    """All collections of some projects that are not deleted."""
    wanted, only = list(project_ids), set(kinds)
    marks = ", ".join("?" * len(wanted))
    rows = db.execute(
        f"{_COLLECTION} WHERE c.state = 'READY' AND c.project_id IN ({marks})", wanted
    ).fetchall()
    return [row for row in rows if not only or row["kind"] in only]


def ensure(db: sqlite3.Connection, project_id: int, kind: str, type_name: str, name: str) -> sqlite3.Row:
    """The collection of that name, made if it is not there; Conflict if it is one of another type or kind."""
    found = find(db, project_id, name)
    if found is None:
        return _insert(db, project_id, kind, type_id(db, project_id, type_name), name)
    if found["type"] != type_name:
        raise Conflict(
            f"The artifact {name!r} has the type {found['type']!r}, and cannot take a version of type"
            f" {type_name!r}: log it under another name, or with its type."
        )
    if found["kind"] != kind:
        what = "links to versions of others" if found["kind"] == PORTFOLIO else "has versions of its own"
        raise Conflict(f"The collection {name!r} {what}: take another name.")
    return found


def _insert(db: sqlite3.Connection, project_id: int, kind: str, type_row: int, name: str) -> sqlite3.Row:
    now = now_ms()
    db.execute(
        "INSERT INTO artifact_collections (project_id, type_id, kind, name, created_ms, updated_ms)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (project_id, type_row, kind, naming.collection_name(name), now, now),
    )
    row = find(db, project_id, name)
    assert row is not None
    return row


def update(db: sqlite3.Connection, row: sqlite3.Row, name: str | None, description: str | None) -> None:
    """Rename and describe; what is None stays."""
    other = find(db, row["project_id"], name) if name else None
    if other is not None and other["id"] != row["id"]:
        raise Conflict(f"There is a collection {name!r} in {row['entity']}/{row['project']} already.")
    db.execute(
        "UPDATE artifact_collections SET name = coalesce(?, name), description = coalesce(?, description),"
        " updated_ms = ? WHERE id = ?",
        (naming.collection_name(name) if name else None, description, now_ms(), row["id"]),
    )


def move(db: sqlite3.Connection, row: sqlite3.Row, type_name: str) -> None:
    """Give a sequence, and so all its versions, another type."""
    linked = (
        "SELECT 1 FROM artifacts a JOIN artifact_memberships m ON m.artifact_id = a.id"
        " WHERE a.sequence_id = ?1 AND m.collection_id != ?1"
    )
    if db.execute(linked, (row["id"],)).fetchone():
        raise Refused(
            f"{row['name']!r} is linked to other collections, which have its type: unlink it first."
        )
    kind = type_id(db, row["project_id"], type_name)
    db.execute(
        "UPDATE artifact_collections SET type_id = ?, updated_ms = ? WHERE id = ?",
        (kind, now_ms(), row["id"]),
    )


def add_tags(db: sqlite3.Connection, row: sqlite3.Row, tags: Iterable[str]) -> list[str]:
    """Add tags; returns them."""
    names = naming.tag_names(tags)
    for name in names:
        db.execute(
            "INSERT INTO artifact_collection_tags VALUES (?, ?) ON CONFLICT DO NOTHING", (row["id"], name)
        )
    return names


def delete_tags(db: sqlite3.Connection, row: sqlite3.Row, tags: Iterable[str]) -> None:
    """Take tags away; those that are not there stay away."""
    for name in tags:
        db.execute(
            "DELETE FROM artifact_collection_tags WHERE collection_id = ? AND tag = ?", (row["id"], name)
        )


def tags(db: sqlite3.Connection, collection: int) -> list[str]:
    """In the order of their names."""
    query = "SELECT tag FROM artifact_collection_tags WHERE collection_id = ? ORDER BY tag"
    return [row["tag"] for row in db.execute(query, (collection,))]


def may_read(db: sqlite3.Connection, user: User, project_id: int) -> bool:
    """Whether the project's owner is the user, a team of the user, or the user's organisation."""
    row = db.execute("SELECT entity_id FROM projects WHERE id = ?", (project_id,)).fetchone()
    return row is not None and accounts.may_use(db, user, row["entity_id"])
