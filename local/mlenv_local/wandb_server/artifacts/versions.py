"""Versions: made, found, changed, deleted. PENDING → COMMITTED (see commit.py) → DELETED, never back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlenv_local.wandb_server import accounts
from mlenv_local.wandb_server.artifacts import collections, links, naming
from mlenv_local.wandb_server.clock import now_ms
from mlenv_local.wandb_server.errors import NotFound, Refused

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from mlenv_local.wandb_server.accounts import User

VERSION = (
    "SELECT a.*, c.name AS sequence, c.project_id, p.entity_id, p.name AS project, e.name AS entity,"
    " t.name AS type FROM artifacts a JOIN artifact_collections c ON c.id = a.sequence_id"
    " JOIN artifact_types t ON t.id = c.type_id"
    " JOIN projects p ON p.id = c.project_id JOIN entities e ON e.id = p.entity_id"
)


@dataclass(frozen=True, slots=True)
class Draft:
    """What a client says of a version that it begins to log."""

    digest: str
    description: str | None
    metadata: str | None
    ttl: int | None
    history_step: int | None
    run_id: int | None
    distributed_id: str | None
    client_id: str | None
    aliases: tuple[str, ...]
    tags: tuple[str, ...]


def create(db: sqlite3.Connection, user: User, sequence: sqlite3.Row, draft: Draft) -> int:
    """A pending version, or the committed one that has this digest already, which gets the aliases and tags.

    What another client (or this one before it died) has begun with the same digest is gone on with.
    """
    row = _same(db, sequence["id"], draft)
    if row is not None and row["state"] == "COMMITTED":
        _again(db, sequence, row["id"], draft)
        artifact = int(row["id"])
    elif row is not None:
        artifact = int(row["id"])
        _renew(db, artifact, draft)
    else:
        artifact = _insert(db, user, sequence["id"], draft)
    if draft.client_id:
        db.execute("INSERT OR REPLACE INTO artifact_clients VALUES (?, ?)", (draft.client_id, artifact))
    return artifact


def _same(db: sqlite3.Connection, sequence: int, draft: Draft) -> sqlite3.Row | None:
    if draft.distributed_id:
        query = "distributed_id = ? AND state = 'PENDING'"
        value = draft.distributed_id
    else:
        query = "digest = ? AND distributed_id IS NULL AND state != 'DELETED'"
        value = draft.digest
    # The committed one first: what is there needs no upload.
    row: sqlite3.Row | None = db.execute(
        f"SELECT id, state FROM artifacts WHERE sequence_id = ? AND {query} ORDER BY state, id DESC",  # noqa: S608
        (sequence, value),
    ).fetchone()
    return row


def _again(db: sqlite3.Connection, sequence: sqlite3.Row, artifact: int, draft: Draft) -> None:
    membership = links.membership(db, sequence["id"], artifact)
    links.set_aliases(db, membership, draft.aliases)
    add_tags(db, artifact, draft.tags)


def _renew(db: sqlite3.Connection, artifact: int, draft: Draft) -> None:
    db.execute(
        "UPDATE artifacts SET description = ?, metadata = ?, ttl_seconds = ?, run_id = coalesce(?, run_id),"
        " history_step = ?, wanted = ?, updated_ms = ? WHERE id = ?",
        (
            draft.description,
            _metadata(draft.metadata),
            naming.stored_ttl(draft.ttl),
            draft.run_id,
            draft.history_step,
            _wanted(draft),
            now_ms(),
            artifact,
        ),
    )


def _insert(db: sqlite3.Connection, user: User, sequence: int, draft: Draft) -> int:
    now = now_ms()
    row = db.execute(
        "INSERT INTO artifacts (sequence_id, digest, distributed_id, description, metadata, ttl_seconds,"
        " history_step, run_id, user_id, wanted, created_ms, updated_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            sequence,
            draft.digest,
            draft.distributed_id,
            draft.description,
            _metadata(draft.metadata),
            naming.stored_ttl(draft.ttl),
            draft.history_step,
            draft.run_id,
            user.id,
            _wanted(draft),
            now,
            now,
        ),
    ).lastrowid
    assert row is not None
    return row


def _wanted(draft: Draft) -> str:
    return json.dumps({"aliases": naming.alias_names(draft.aliases), "tags": naming.tag_names(draft.tags)})


def _metadata(text: str | None) -> str | None:
    if text is not None and not _is_object(text):
        raise Refused("An artifact's metadata is a JSON object.")
    return text


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def get(db: sqlite3.Connection, user: User, artifact: int) -> sqlite3.Row:
    """A version in any state, if the user may see it, be it through a collection that links to it."""
    row: sqlite3.Row | None = db.execute(f"{VERSION} WHERE a.id = ?", (artifact,)).fetchone()
    if row is None or not (accounts.may_use(db, user, row["entity_id"]) or _linked(db, user, artifact)):
        raise NotFound("There is no artifact with that id, or it is not yours.")
    return row


def to_write(db: sqlite3.Connection, user: User, artifact: int) -> sqlite3.Row:
    """A version that the user may change: one of the user's own or of a team's."""
    row = get(db, user, artifact)
    if not accounts.may_use(db, user, row["entity_id"]):
        raise NotFound(f"The artifact belongs to {row['entity']}: you may read it, and not change it.")
    return row


def _linked(db: sqlite3.Connection, user: User, artifact: int) -> bool:
    query = (
        "SELECT DISTINCT p.entity_id FROM artifact_memberships m"
        " JOIN artifact_collections c ON c.id = m.collection_id JOIN projects p ON p.id = c.project_id"
        " WHERE m.artifact_id = ?"
    )
    return any(
        accounts.may_use(db, user, row["entity_id"]) for row in db.execute(query, (artifact,)).fetchall()
    )


def of_client(db: sqlite3.Connection, client_id: str) -> int | None:
    """The version to which a client gave that id."""
    row = db.execute("SELECT artifact_id FROM artifact_clients WHERE client_id = ?", (client_id,)).fetchone()
    return int(row["artifact_id"]) if row else None


def update(db: sqlite3.Connection, row: sqlite3.Row, change: dict[str, Any]) -> None:
    """Set description, metadata and time to live as far as the change has them."""
    if row["state"] == "DELETED":
        raise Refused("The artifact is deleted: nothing of it can be changed.")
    now, ttl, expires = now_ms(), row["ttl_seconds"], row["expires_ms"]
    if change.get("ttlDurationSeconds") is not None:
        ttl = naming.stored_ttl(change["ttlDurationSeconds"])
        expires = naming.expiry(row["created_ms"], ttl) if row["state"] == "COMMITTED" else None
    described = change.get("description")
    metadata = _metadata(change.get("metadata"))
    db.execute(
        "UPDATE artifacts SET description = coalesce(?, description), metadata = coalesce(?, metadata),"
        " ttl_seconds = ?, expires_ms = ?, updated_ms = ? WHERE id = ?",
        (described, metadata, ttl, expires, now, row["id"]),
    )


def add_tags(db: sqlite3.Connection, artifact: int, tags: Iterable[str]) -> None:
    """Add tags; those that are there stay."""
    for tag in naming.tag_names(tags):
        db.execute("INSERT INTO artifact_tags VALUES (?, ?) ON CONFLICT DO NOTHING", (artifact, tag))
    if len(tags_of(db, artifact)) > naming.MOST_TAGS:
        raise Refused(f"A version has at most {naming.MOST_TAGS} tags.")


def delete_tags(db: sqlite3.Connection, artifact: int, tags: Iterable[str]) -> None:
    """Take tags away."""
    for tag in tags:
        db.execute("DELETE FROM artifact_tags WHERE artifact_id = ? AND tag = ?", (artifact, tag))


def tags_of(db: sqlite3.Connection, artifact: int) -> list[str]:
    """In the order of their names."""
    query = "SELECT tag FROM artifact_tags WHERE artifact_id = ? ORDER BY tag"
    return [row["tag"] for row in db.execute(query, (artifact,))]


def delete(db: sqlite3.Connection, row: sqlite3.Row, *, delete_aliases: bool) -> None:
    """Delete a version everywhere; refused while an alias names it, unless aliases may go, too."""
    if row["state"] == "DELETED":
        return
    if (names := links.all_aliases(db, row["id"])) and not delete_aliases:
        raise Refused(
            f"{row['sequence']}:v{row['version_index']} has the aliases {', '.join(sorted(names))}: move"
            " them, or say delete_aliases=True."
        )
    forget(db, row["id"])


def forget(db: sqlite3.Connection, artifact: int) -> None:
    """Make a version DELETED: no membership, no contents; its row and its lineage stay."""
    for table in ("artifact_memberships", "artifact_entries", "artifact_manifests", "artifact_tags"):
        db.execute(f"DELETE FROM {table} WHERE artifact_id = ?", (artifact,))  # noqa: S608
    db.execute(
        "UPDATE artifacts SET state = 'DELETED', manifest_sha256 = NULL, expires_ms = NULL, updated_ms = ?"
        " WHERE id = ?",
        (now_ms(), artifact),
    )


def delete_logged(db: sqlite3.Connection, run: int) -> None:
    """Delete all versions that a run logged, whatever their aliases: they go with the run."""
    query = "SELECT id FROM artifacts WHERE run_id = ? AND state != 'DELETED'"
    for artifact in db.execute(query, (run,)).fetchall():
        forget(db, artifact["id"])


def delete_collection(db: sqlite3.Connection, row: sqlite3.Row) -> None:
    """Delete a collection: a sequence with its versions, a portfolio with its links only."""
    if row["kind"] == collections.SEQUENCE:
        query = "SELECT id FROM artifacts WHERE sequence_id = ? AND state != 'DELETED'"
        for artifact in db.execute(query, (row["id"],)).fetchall():
            forget(db, artifact["id"])
    db.execute("DELETE FROM artifact_memberships WHERE collection_id = ?", (row["id"],))
    db.execute(
        "UPDATE artifact_collections SET state = 'DELETED', updated_ms = ? WHERE id = ?",
        (now_ms(), row["id"]),
    )
