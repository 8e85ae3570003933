"""The step from PENDING to COMMITTED: one transaction, after everything that the manifest names is here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mlenv_local.wandb_server.artifacts import links, manifest, naming, uploads, versions
from mlenv_local.wandb_server.clock import now_ms
from mlenv_local.wandb_server.errors import Refused

if TYPE_CHECKING:
    import sqlite3

    from mlenv_local.wandb_server.artifacts.manifest import Entry, Manifest
    from mlenv_local.wandb_server.blobs import Blobs


def commit(db: sqlite3.Connection, blobs: Blobs, row: sqlite3.Row) -> None:
    """Commit a pending version. Committing again changes nothing: the answer may have been lost."""
    if row["state"] == "COMMITTED":
        return
    if row["state"] == "DELETED":
        raise Refused("The artifact was deleted before it was committed: log it again.")
    whole, digest = _manifest(db, blobs, row)
    entries = whole.entries()
    contents = uploads.contents(db, row, [entry for entry in entries if entry.is_file])
    _fill(db, row, entries, contents)
    _finish(db, row, digest, entries)
    uploads.clean(db, blobs, row["id"])


def _manifest(db: sqlite3.Connection, blobs: Blobs, row: sqlite3.Row) -> tuple[Manifest, str]:
    """The manifest of the whole version, which becomes its current one, and the version's digest."""
    parts = db.execute(
        "SELECT * FROM artifact_manifests WHERE artifact_id = ? ORDER BY id", (row["id"],)
    ).fetchall()
    if not parts:
        raise Refused("The artifact has no manifest: it cannot be committed.")
    kinds = {part["type"] for part in parts}
    if kinds == {"FULL"}:
        slot = uploads.manifest_slot(db, blobs, parts[-1])
        whole = manifest.parse(blobs.read(slot))
        if whole.digest() != row["digest"]:
            raise Refused(f"The manifest's digest is {whole.digest()}, and {row['digest']} was announced.")
        sha256 = slot.sha256
    else:
        base = _base(db, blobs, parts) if "INCREMENTAL" in kinds else manifest.EMPTY
        uploaded = (uploads.manifest_slot(db, blobs, part) for part in parts)
        whole = base.merged(manifest.parse(blobs.read(slot)) for slot in uploaded)
        sha256 = blobs.add(db, uploads.merged_key(row["id"]), whole.encode()).sha256
    db.execute("UPDATE artifacts SET manifest_sha256 = ? WHERE id = ?", (sha256, row["id"]))
    return whole, whole.digest()


def _base(db: sqlite3.Connection, blobs: Blobs, parts: list[sqlite3.Row]) -> Manifest:
    """What an incremental manifest adds to; nothing for the first version."""
    base = next((part["base_id"] for part in reversed(parts) if part["base_id"] is not None), None)
    if base is None:
        return manifest.EMPTY
    query = "SELECT sha256 FROM artifacts JOIN blobs ON sha256 = manifest_sha256 WHERE artifacts.id = ?"
    found = db.execute(query, (base,)).fetchone()
    if found is None:
        raise Refused("The version that this one adds to was deleted meanwhile: log it again.")
    return manifest.parse(blobs.path(found["sha256"]).read_bytes())


def _fill(db: sqlite3.Connection, row: sqlite3.Row, entries: list[Entry], contents: dict[str, str]) -> None:
    db.executemany(
        "INSERT INTO artifact_entries VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            (
                row["id"],
                entry.path,
                entry.digest,
                entry.size,
                contents[entry.path] if entry.is_file else None,
                entry.ref or None,
                uploads.birth(entry.birth, row["id"]),
            )
            for entry in entries
        ),
    )


def _finish(db: sqlite3.Connection, row: sqlite3.Row, digest: str, entries: list[Entry]) -> None:
    member = links.join(db, row["sequence_id"], row["id"])
    now = now_ms()
    db.execute(
        "UPDATE artifacts SET state = 'COMMITTED', version_index = ?, digest = ?, size = ?, file_count = ?,"
        " expires_ms = ?, wanted = '{}', updated_ms = ? WHERE id = ?",
        (
            member["version_index"],
            digest,
            sum(entry.size for entry in entries),
            len(entries),
            naming.expiry(row["created_ms"], row["ttl_seconds"]),
            now,
            row["id"],
        ),
    )
    wanted = json.loads(row["wanted"])
    links.set_aliases(db, member, wanted.get("aliases", ()))
    versions.add_tags(db, row["id"], wanted.get("tags", ()))
