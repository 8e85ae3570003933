"""Memberships (a version in a collection) and their aliases: each alias names one member of a collection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlenv_local.wandb_server.artifacts import naming
from mlenv_local.wandb_server.clock import now_ms
from mlenv_local.wandb_server.errors import NotFound

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable


def join(db: sqlite3.Connection, collection: int, artifact: int) -> sqlite3.Row:
    """Make a version a member, under the collection's next number; as it is if it is one already."""
    found = find(db, collection, artifact)
    if found is not None:
        return found
    (number,) = db.execute(
        "UPDATE artifact_collections SET versions = versions + 1, updated_ms = ? WHERE id = ?"
        " RETURNING versions - 1",
        (now_ms(), collection),
    ).fetchone()
    db.execute(
        "INSERT INTO artifact_memberships (collection_id, artifact_id, version_index, created_ms)"
        " VALUES (?, ?, ?, ?)",
        (collection, artifact, number, now_ms()),
    )
    return membership(db, collection, artifact)


def find(db: sqlite3.Connection, collection: int, artifact: int) -> sqlite3.Row | None:
    """The membership of a version in a collection."""
    query = "SELECT * FROM artifact_memberships WHERE collection_id = ? AND artifact_id = ?"
    row: sqlite3.Row | None = db.execute(query, (collection, artifact)).fetchone()
    return row


def membership(db: sqlite3.Connection, collection: int, artifact: int) -> sqlite3.Row:
    """The same, for those that must be."""
    row = find(db, collection, artifact)
    if row is None:
        raise NotFound("The artifact is no member of that collection: it was deleted or unlinked.")
    return row


def resolve(db: sqlite3.Connection, collection: int, alias: str) -> sqlite3.Row | None:
    """The member that an alias or `v7` names."""
    number = naming.version_of(alias)
    query = "SELECT * FROM artifact_memberships WHERE collection_id = ? AND version_index = ?"
    if number is None:
        query = (
            "SELECT m.* FROM artifact_aliases a JOIN artifact_memberships m ON m.id = a.membership_id"
            " WHERE a.collection_id = ? AND a.alias = ?"
        )
    row: sqlite3.Row | None = db.execute(query, (collection, alias if number is None else number)).fetchone()
    return row


def set_aliases(db: sqlite3.Connection, member: sqlite3.Row, names: Iterable[str]) -> None:
    """Let aliases name this member and no longer another, in one step."""
    for name in naming.alias_names(names):
        db.execute(
            "INSERT INTO artifact_aliases (collection_id, alias, membership_id) VALUES (?, ?, ?)"
            " ON CONFLICT (collection_id, alias) DO UPDATE SET membership_id = excluded.membership_id",
            (member["collection_id"], name, member["id"]),
        )


def delete_aliases(db: sqlite3.Connection, member: sqlite3.Row, names: Iterable[str]) -> None:
    """Take aliases away from this member; those that another has taken over stay."""
    for name in names:
        db.execute("DELETE FROM artifact_aliases WHERE membership_id = ? AND alias = ?", (member["id"], name))


def aliases(db: sqlite3.Connection, member: int) -> list[sqlite3.Row]:
    """Of one member, by name."""
    query = "SELECT * FROM artifact_aliases WHERE membership_id = ? ORDER BY alias"
    return db.execute(query, (member,)).fetchall()


def all_aliases(db: sqlite3.Connection, artifact: int) -> list[str]:
    """Of a version in every collection."""
    query = (
        "SELECT alias FROM artifact_aliases a JOIN artifact_memberships m ON m.id = a.membership_id"
        " WHERE m.artifact_id = ?"
    )
    return [row["alias"] for row in db.execute(query, (artifact,))]


def leave(db: sqlite3.Connection, member: sqlite3.Row) -> None:
    """End a membership with its aliases; its number is not given again."""
    db.execute("DELETE FROM artifact_memberships WHERE id = ?", (member["id"],))
