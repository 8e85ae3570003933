"""Versions whose time is over, uploads that nobody goes on with, and what they left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlenv_local.wandb_server.artifacts import uploads, versions
from mlenv_local.wandb_server.clock import now_ms

if TYPE_CHECKING:
    import sqlite3

    from mlenv_local.wandb_server.blobs import Blobs
    from mlenv_local.wandb_server.store import Store

ABANDONED_AFTER_MS = 7 * 24 * 3600 * 1000

# A version that a portfolio links to has been published: it stays until it is unlinked.
_DUE = (
    "SELECT id FROM artifacts a WHERE expires_ms <= ? AND state = 'COMMITTED' AND NOT EXISTS"
    " (SELECT 1 FROM artifact_memberships m WHERE m.artifact_id = a.id AND m.collection_id != a.sequence_id)"
)
_ABANDONED = "SELECT id FROM artifacts WHERE state = 'PENDING' AND created_ms < ?"


def expire(store: Store) -> int:
    """Delete versions whose time to live is over; how many. Costs a look at an index if there are none."""
    with store.read() as db:
        if db.execute(_DUE, (now_ms(),)).fetchone() is None:
            return 0
    with store.write() as db:
        due = db.execute(_DUE, (now_ms(),)).fetchall()
        for row in due:
            versions.forget(db, row["id"])
    return len(due)


def tidy(store: Store, blobs: Blobs) -> int:
    """Expire, forget uploads after a week, empty slots of all that are no longer pending; how many went."""
    gone = expire(store)
    with store.write() as db:
        abandoned = db.execute(_ABANDONED, (now_ms() - ABANDONED_AFTER_MS,)).fetchall()
        for row in abandoned:
            versions.forget(db, row["id"])
        for artifact in _leftovers(db):
            uploads.clean(db, blobs, artifact)
    return gone + len(abandoned)


def _leftovers(db: sqlite3.Connection) -> set[int]:
    query = "SELECT key FROM slots WHERE key >= 'artifact' AND key < 'artifact~'"
    found = {int(row["key"].split("/")[1]) for row in db.execute(query)}
    pending = {row["id"] for row in db.execute("SELECT id FROM artifacts WHERE state = 'PENDING'")}
    return found - pending
