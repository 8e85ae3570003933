"""Rows as the schema's objects, as far as they need no further query. `row` is the row's number."""

from __future__ import annotations

import mimetypes
from typing import TYPE_CHECKING, Any

from mlenv_local.wandb_server import ids
from mlenv_local.wandb_server.artifacts import manifest, naming
from mlenv_local.wandb_server.clock import iso

if TYPE_CHECKING:
    import sqlite3

Raw = dict[str, Any]

ALGORITHM = "MANIFEST_MD5"


def artifact(row: sqlite3.Row) -> Raw:
    """A row of `versions.VERSION`."""
    ttl = row["ttl_seconds"]
    return {
        "row": row["id"],
        "sequence_row": row["sequence_id"],
        "run_row": row["run_id"],
        "user_row": row["user_id"],
        "manifest_sha256": row["manifest_sha256"],
        "type": row["type"],
        "project_row": row["project_id"],
        "id": ids.make("Artifact", row["id"]),
        "versionIndex": row["version_index"],
        "description": row["description"],
        "metadata": row["metadata"],
        "ttlDurationSeconds": naming.TTL_NEVER if ttl is None else ttl,
        "ttlIsInherited": ttl is None,
        "historyStep": row["history_step"],
        "state": row["state"],
        "size": row["size"],
        "digest": row["digest"],
        "digestAlgorithm": ALGORITHM,
        "commitHash": row["digest"] if row["state"] == "COMMITTED" else None,
        "fileCount": row["file_count"],
        "createdAt": iso(row["created_ms"]),
        "updatedAt": iso(row["updated_ms"]),
    }


def collection(row: sqlite3.Row) -> Raw:
    """A row of `collections`; its type says which of the two kinds it is."""
    kind = "ArtifactSequence" if row["kind"] == "SEQUENCE" else "ArtifactPortfolio"
    return {
        "row": row["id"],
        "project_row": row["project_id"],
        "type_row": row["type_id"],
        "kind": kind,
        "id": ids.make(kind, row["id"]),
        "name": row["name"],
        "description": row["description"],
        "state": row["state"],
        "createdAt": iso(row["created_ms"]),
        "updatedAt": iso(row["updated_ms"]),
        "digestAlgorithm": ALGORITHM,
    }


def kind(row: sqlite3.Row) -> Raw:
    """A row of `artifact_types`."""
    return {
        "row": row["id"],
        "project_row": row["project_id"],
        "id": ids.make("ArtifactType", row["id"]),
        "name": row["name"],
        "description": row["description"],
        "createdAt": iso(row["created_ms"]),
    }


def membership(row: sqlite3.Row) -> Raw:
    """A row of `artifact_memberships`."""
    return {
        "row": row["id"],
        "collection_row": row["collection_id"],
        "artifact_row": row["artifact_id"],
        "id": ids.make("ArtifactCollectionMembership", row["id"]),
        "versionIndex": row["version_index"],
        "createdAt": iso(row["created_ms"]),
    }


def alias(row: sqlite3.Row) -> Raw:
    """A row of `artifact_aliases`."""
    return {
        "id": ids.make("ArtifactAlias", row["id"]),
        "alias": row["alias"],
        "collection_row": row["collection_id"],
    }


def version_alias(member: sqlite3.Row) -> Raw:
    """The alias that every member has by itself: its version, from which the client reads it."""
    return {
        "id": ids.make("ArtifactAlias", f"v{member['id']}"),
        "alias": f"v{member['version_index']}",
        "collection_row": member["collection_id"],
    }


def tag(name: str) -> Raw:
    """A tag: nothing but its name."""
    return {"id": ids.make("Tag", name), "name": name}


def file(row: sqlite3.Row, url: str) -> Raw:
    """A row of `uploads.files`, and where it can be fetched; a reference is stored nowhere here."""
    place = f"wandb_artifacts/{row['birth_id']}/{manifest.hex_of(row['digest'])}" if row["sha256"] else None
    return {
        "id": ids.make("File", f"artifact/{row['artifact_id']}/{row['path']}"),
        "name": row["path"],
        "displayName": row["path"],
        "url": url,
        "directUrl": url,
        "sizeBytes": row["size"],
        "storagePath": place,
        "mimetype": mimetypes.guess_type(row["path"])[0],
        "updatedAt": iso(row["created_ms"]) if row["created_ms"] else None,
        "digest": row["digest"],
        "md5": row["digest"],
    }
