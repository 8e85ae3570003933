"""The contents of versions: manifests announced, files asked for, what is here already, pages of files.

The slots of a pending version are `artifact/ID/MD5`; a committed one refers to contents through its entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlenv_local.wandb_server import ids
from mlenv_local.wandb_server.artifacts import manifest
from mlenv_local.wandb_server.clock import now_ms
from mlenv_local.wandb_server.errors import NotFound, Refused

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from mlenv_local.wandb_server.artifacts.manifest import Entry
    from mlenv_local.wandb_server.blobs import Blobs, Content

NOTHING = manifest.EMPTY.digest()


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file that a client has: whether it must be sent, to which slot, and in which version it first was."""

    name: str
    md5: str
    key: str
    birth_id: int
    stored: bool


def announce_manifest(
    db: sqlite3.Connection, artifact: int, *, kind: str, name: str, run: str, digest: str, base: int | None
) -> int:
    """The row of a version's manifest; a second call (with the digest, before the upload) gives the same.

    A client that goes on with what another has begun may do it in another way: the other's way is forgotten.
    """
    db.execute("DELETE FROM artifact_manifests WHERE artifact_id = ? AND type != ?", (artifact, kind))
    (row,) = db.execute(
        "INSERT INTO artifact_manifests (artifact_id, type, name, run, digest, base_id, created_ms)"
        " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (artifact_id, type, name, run)"
        " DO UPDATE SET digest = ?5, base_id = coalesce(?6, base_id) RETURNING id",
        # One full manifest, whoever sends it; several patches, one of each run.
        (artifact, kind, name, "" if kind == "FULL" else run, digest, base, now_ms()),
    ).fetchone()
    return int(row)


def renew_manifest(db: sqlite3.Connection, row: int, digest: str | None, base: int | None) -> None:
    """Change what was announced."""
    db.execute(
        "UPDATE artifact_manifests SET digest = coalesce(?, digest), base_id = coalesce(?, base_id)"
        " WHERE id = ?",
        (digest, base, row),
    )


def manifest_row(db: sqlite3.Connection, row: int) -> sqlite3.Row:
    """An announced manifest."""
    found: sqlite3.Row | None = db.execute("SELECT * FROM artifact_manifests WHERE id = ?", (row,)).fetchone()
    if found is None:
        raise NotFound("There is no manifest with that id: its artifact was deleted.")
    return found


def manifest_key(row: sqlite3.Row) -> str:
    """The slot of a manifest: one per digest, so that two clients of one version do not get mixed up."""
    return f"artifact-manifest/{row['artifact_id']}/{row['id']}/{manifest.hex_of(row['digest'])}"


def merged_key(artifact: int) -> str:
    """The slot of a manifest that the server puts together; it holds it until the transaction ends."""
    return f"artifact-manifest/{artifact}/merged"


def manifest_slot(db: sqlite3.Connection, blobs: Blobs, row: sqlite3.Row) -> Content:
    """The manifest that was uploaded last."""
    found = blobs.slots(db, f"artifact-manifest/{row['artifact_id']}/{row['id']}/")
    if not found:
        raise Refused(
            f"The manifest {row['name']} was announced and never uploaded: the artifact cannot be committed."
        )
    return max(found, key=lambda slot: slot.updated_ms)


def want(db: sqlite3.Connection, blobs: Blobs, row: sqlite3.Row, name: str, md5: str) -> Wanted:
    """Whether a file of a version must be uploaded.

    Not if it was (an upload that was cut short goes on where it stopped), and not if a version of the
    project has it: then this one holds it from now on, whatever becomes of the other.
    """
    key = f"artifact/{row['id']}/{manifest.hex_of(md5)}"
    if row["state"] == "COMMITTED" or blobs.slot(db, key) is not None:
        return Wanted(name, md5, key, row["id"], stored=True)
    known = _known(db, row["project_id"], md5)
    if known is None:
        return Wanted(name, md5, key, row["id"], stored=False)
    blobs.bind(db, key, known["sha256"])
    return Wanted(name, md5, key, known["artifact_id"], stored=True)


def _known(db: sqlite3.Connection, project: int, md5: str) -> sqlite3.Row | None:
    """The oldest version of the project that has a file with that digest."""
    row: sqlite3.Row | None = db.execute(
        "SELECT x.artifact_id, x.sha256 FROM artifact_entries x JOIN artifacts a ON a.id = x.artifact_id"
        " JOIN artifact_collections c ON c.id = a.sequence_id"
        " WHERE x.digest = ? AND x.sha256 IS NOT NULL AND c.project_id = ? ORDER BY x.artifact_id LIMIT 1",
        (md5, project),
    ).fetchone()
    return row


def contents(db: sqlite3.Connection, row: sqlite3.Row, files: Sequence[Entry]) -> dict[str, str]:
    """The stored content of each file, by path; Refused names one that is not here, or has another size."""
    slots = _own_slots(db, row["id"])
    found: dict[str, str] = {}
    for entry in files:
        place = slots.get(manifest.hex_of(entry.digest)) or _kept(db, row["project_id"], entry.digest)
        if place is None:
            raise Refused(f"The file {entry.path!r} was never uploaded: the artifact cannot be committed.")
        sha256, size = place
        if size != entry.size:
            raise Refused(f"The file {entry.path!r} has {size} bytes here, and {entry.size} in the manifest.")
        found[entry.path] = sha256
    return found


def _own_slots(db: sqlite3.Connection, artifact: int) -> dict[str, tuple[str, int]]:
    prefix = f"artifact/{artifact}/"
    query = "SELECT key, sha256, size FROM slots JOIN blobs USING (sha256) WHERE key >= ? AND key < ?"
    rows = db.execute(query, (prefix, f"{prefix}g"))  # hexadecimal digits end before g
    return {row["key"].removeprefix(prefix): (row["sha256"], row["size"]) for row in rows}


def _kept(db: sqlite3.Connection, project: int, md5: str) -> tuple[str, int] | None:
    known = _known(db, project, md5)
    if known is None:
        return None
    size = db.execute("SELECT size FROM blobs WHERE sha256 = ?", (known["sha256"],)).fetchone()["size"]
    return str(known["sha256"]), int(size)


def clean(db: sqlite3.Connection, blobs: Blobs, artifact: int) -> None:
    """Empty the slots of a version that is no longer pending."""
    blobs.drop(db, f"artifact/{artifact}/")
    blobs.drop(db, f"artifact-manifest/{artifact}/")


def birth(text: str, artifact: int) -> int:
    """The row of the version in which a file first was; its own if the manifest does not say."""
    try:
        return ids.parse_int("Artifact", text)
    except NotFound:
        return artifact


@dataclass(frozen=True, slots=True)
class Page:
    """Some of a version's files."""

    rows: list[sqlite3.Row]
    total: int
    more: bool


def files(
    db: sqlite3.Connection, artifact: int, *, names: Sequence[str] | None, after: str, first: int
) -> Page:
    """What is in a version behind a path, by path; references too: the client fetches what is listed."""
    picked: list[str | int] = [artifact, *(names or ())]
    where = "artifact_id = ?"
    if names:
        where += f" AND path IN ({', '.join('?' * len(names))})"
    source = f"FROM artifact_entries x LEFT JOIN blobs b ON b.sha256 = x.sha256 WHERE {where}"
    (total,) = db.execute(f"SELECT count(*) {source}", picked).fetchone()
    rows = db.execute(
        f"SELECT x.*, b.created_ms {source} AND path > ? ORDER BY path LIMIT ?",
        [*picked, after, first + 1],
    ).fetchall()
    return Page(rows[:first], total, len(rows) > first)
