"""Logging an artifact: announced, its manifest and files uploaded, committed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ariadne import MutationType

from mlenv_local.wandb_server import ids, pages, runs
from mlenv_local.wandb_server.artifacts import (
    collections,
    commit,
    manifest,
    uploads,
    versions,
    views,
)
from mlenv_local.wandb_server.errors import Refused

if TYPE_CHECKING:
    import sqlite3

    from mlenv_local.wandb_server.context import Context, Info, Raw

mutation = MutationType()


@mutation.field("createArtifact")
def create_artifact(_: None, info: Info, input: Raw) -> Raw:
    """Begin a version, or find the one that has this digest."""
    context: Context = info.context
    if input.get("digestAlgorithm") not in (None, views.ALGORITHM):
        raise Refused(
            f"This server knows digests of {views.ALGORITHM} only: set WANDB_X_ARTIFACT_DIGEST accordingly."
        )
    names = input.get("artifactCollectionNames") or [input.get("artifactCollectionName")]
    if len(names) != 1 or not names[0]:
        raise Refused("An artifact is logged under one name.")
    with context.services.store.write() as db:
        project = collections.project(db, context.user, input["entityName"], input["projectName"])
        sequence = collections.ensure(
            db, project["id"], collections.SEQUENCE, input["artifactTypeName"], names[0]
        )
        artifact = versions.create(db, context.user, sequence, _draft(db, context, input))
        return {"artifact": views.artifact(versions.get(db, context.user, artifact))}


def _draft(db: sqlite3.Connection, context: Context, asked: Raw) -> versions.Draft:
    run = asked.get("runName")
    project = (asked["entityName"], asked["projectName"])
    return versions.Draft(
        digest=asked["digest"],
        description=asked.get("description"),
        metadata=asked.get("metadata"),
        ttl=asked.get("ttlDurationSeconds"),
        history_step=asked.get("historyStep"),
        run_id=int(runs.by_path(db, context.user, *project, run)["id"]) if run else None,
        distributed_id=asked.get("distributedID"),
        client_id=asked.get("clientID"),
        aliases=tuple(one["alias"] for one in asked.get("aliases") or ()),
        tags=tuple(one["tagName"] for one in asked.get("tags") or ()),
    )


@mutation.field("createArtifactManifest")
def create_manifest(_: None, info: Info, input: Raw) -> Raw:
    """Announce a manifest; a second time, with its digest, gives the URL for its upload."""
    context: Context = info.context
    with context.services.store.write() as db:
        artifact = versions.to_write(db, context.user, ids.parse_int("Artifact", input["artifactID"]))
        row = uploads.announce_manifest(
            db,
            artifact["id"],
            kind=input.get("type") or "FULL",
            name=input["name"],
            run=input.get("runName") or "",
            digest=input["digest"],
            base=_base(db, context, input),
        )
        return {"artifactManifest": _manifest(context, uploads.manifest_row(db, row))}


@mutation.field("updateArtifactManifest")
def update_manifest(_: None, info: Info, input: Raw) -> Raw:
    """Say the digest of an announced manifest later."""
    context: Context = info.context
    with context.services.store.write() as db:
        row = uploads.manifest_row(db, ids.parse_int("ArtifactManifest", input["artifactManifestID"]))
        versions.to_write(db, context.user, row["artifact_id"])
        uploads.renew_manifest(db, row["id"], input.get("digest"), _base(db, context, input))
        return {"artifactManifest": _manifest(context, uploads.manifest_row(db, row["id"]))}


def _base(db: sqlite3.Connection, context: Context, asked: Raw) -> int | None:
    if not asked.get("baseArtifactID"):
        return None
    return int(versions.get(db, context.user, ids.parse_int("Artifact", asked["baseArtifactID"]))["id"])


def _manifest(context: Context, row: sqlite3.Row) -> Raw:
    upload = {}
    if row["digest"]:
        url = context.services.blobs.upload_url(context.base_url, uploads.manifest_key(row), row["digest"])
        upload = {"uploadUrl": url, "uploadHeaders": _headers(row["digest"])}
    key = row["id"]
    file = {"id": ids.make("File", f"manifest/{key}"), "name": row["name"], **upload}
    return {"id": ids.make("ArtifactManifest", key), "file": file}


def _headers(md5: str) -> list[str]:
    """Sent with the upload as they are; the storage checks the content against it."""
    return [f"Content-MD5:{md5}"]


@mutation.field("createArtifactFiles")
def create_files(_: None, info: Info, input: Raw) -> Raw:
    """For each file in the order of the question: a URL to upload it, or nothing where it is here already."""
    context: Context = info.context
    if input.get("storageLayout") == "V1":
        raise Refused("This server stores artifacts in the layout V2: a newer client is needed.")
    known: dict[str, sqlite3.Row] = {}
    with context.services.store.write() as db:
        files = [_file(db, context, known, one) for one in input["artifactFiles"]]
    return {"files": {**pages.connection(files), "totalCount": len(files)}}


def _file(db: sqlite3.Connection, context: Context, known: dict[str, sqlite3.Row], asked: Raw) -> Raw:
    if asked["artifactID"] not in known:
        artifact = ids.parse_int("Artifact", asked["artifactID"])
        known[asked["artifactID"]] = versions.to_write(db, context.user, artifact)
    wanted = uploads.want(
        db,
        context.services.blobs,
        known[asked["artifactID"]],
        asked["name"],
        asked.get("digest") or asked["md5"],
    )
    described = {
        "id": ids.make("File", wanted.key),
        "name": asked["name"],
        "displayName": asked["name"],
        "storagePath": wanted.key,
        "artifact": {"id": ids.make("Artifact", wanted.birth_id), "row": wanted.birth_id},
    }
    if wanted.stored:
        return described
    url = context.services.blobs.upload_url(context.base_url, wanted.key, wanted.md5)
    parts = _parts(db, context, wanted.key, asked.get("uploadPartsInput") or [])
    return {
        **described,
        "uploadUrl": url,
        "uploadHeaders": _headers(wanted.md5),
        "uploadMultipartUrls": parts,
    }


def _parts(db: sqlite3.Connection, context: Context, key: str, asked: list[Raw]) -> Raw | None:
    """URLs for an upload in parts; one that was begun is gone on with."""
    if not asked:
        return None
    begun = db.execute("SELECT id FROM multipart_uploads WHERE key = ?", (key,)).fetchone()
    upload = begun["id"] if begun else context.services.multipart.begin(db, key)
    urls = [
        {
            "partNumber": part["partNumber"],
            "uploadUrl": context.services.multipart.part_url(context.base_url, upload, part["partNumber"]),
        }
        for part in asked
    ]
    return {"uploadID": upload, "uploadUrlParts": urls}


@mutation.field("completeMultipartUploadArtifact")
def complete_multipart(_: None, info: Info, input: Raw) -> Raw:
    """Join the parts of a file, or give the upload up."""
    context: Context = info.context
    with context.services.store.read() as db:
        artifact = versions.to_write(db, context.user, ids.parse_int("Artifact", input["artifactID"]))
        row = db.execute("SELECT key FROM multipart_uploads WHERE id = ?", (input["uploadID"],)).fetchone()
    prefix = f"artifact/{artifact['id']}/"
    if row is not None and not (row["key"] == input["storagePath"] and row["key"].startswith(prefix)):
        raise Refused("The upload in parts is of another file.")
    if input["completeMultipartAction"] == "Abort":
        context.services.multipart.abort(input["uploadID"])
        return {"digest": None}
    # The client puts the ETag there that it got for the part, quotes and all.
    parts = [(part["partNumber"], part["hexMD5"].strip('"')) for part in input["completedParts"]]
    content = context.services.multipart.complete(input["uploadID"], parts)
    if manifest.hex_of(content.md5) != input["storagePath"].removeprefix(prefix):
        raise Refused(
            f"The parts together have the MD5 {content.md5}, which is not the file's: send it again."
        )
    return {"digest": content.md5}


@mutation.field("commitArtifact")
def commit_artifact(_: None, info: Info, input: Raw) -> Raw:
    """Make a version of what is complete; refused, with the reason, for what is not."""
    context: Context = info.context
    row_id = ids.parse_int("Artifact", input["artifactID"])
    with context.services.store.write() as db:
        commit.commit(db, context.services.blobs, versions.to_write(db, context.user, row_id))
        return {"artifact": views.artifact(versions.get(db, context.user, row_id))}


BINDABLES = [mutation]
