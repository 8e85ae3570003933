"""Versions: as members of collections, their files and manifests, and the runs that made and used them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from ariadne import ObjectType, UnionType

from mlenv_local.wandb_server import ids, pages
from mlenv_local.wandb_server.artifacts import lineage, links, uploads, versions, views
from mlenv_local.wandb_server.errors import Forbidden, NotFound, Refused
from mlenv_local.wandb_server.resolvers import outside

if TYPE_CHECKING:
    import sqlite3

    from mlenv_local.wandb_server.context import Context, Info, Raw

artifact_type = ObjectType("Artifact")
membership_type = ObjectType("ArtifactCollectionMembership")
alias_type = ObjectType("ArtifactAlias")
run_type = ObjectType("Run")
creator_type = UnionType("ArtifactCreator", lambda value, *_: ids.kind(value["id"]))


@membership_type.field("artifact")
def resolve_member_artifact(member: Raw, info: Info) -> Raw | None:
    """The version."""
    with info.context.services.store.read() as db:
        return views.artifact(versions.get(db, info.context.user, member["artifact_row"]))


@membership_type.field("artifactCollection")
@alias_type.field("artifactCollection")
def resolve_member_collection(member: Raw, info: Info) -> Raw | None:
    """The collection."""
    with info.context.services.store.read() as db:
        row = db.execute(
            "SELECT * FROM artifact_collections WHERE id = ?", (member["collection_row"],)
        ).fetchone()
        return views.collection(row) if row else None


@membership_type.field("aliases")
def resolve_member_aliases(member: Raw, info: Info) -> list[Raw]:
    """Its version and the names that people gave."""
    with info.context.services.store.read() as db:
        return _aliases(db, member["row"])


@membership_type.field("files")
def resolve_member_files(
    member: Raw,
    info: Info,
    *,
    names: list[str] | None = None,
    first: int | None = None,
    after: str | None = None,
) -> Raw:
    """A page of its files with URLs to fetch them."""
    context: Context = info.context
    limit = max(1, min(first or pages.LARGEST, pages.LARGEST))
    with context.services.store.read() as db:
        page = uploads.files(db, member["artifact_row"], names=names, after=_path(after), first=limit)
    edges = [{"node": _file(context, row), "cursor": ids.make("Path", row["path"])} for row in page.rows]
    end = edges[-1]["cursor"] if edges else None
    info_ = {"endCursor": end, "hasNextPage": page.more, "hasPreviousPage": bool(after)}
    return {"edges": edges, "totalCount": page.total, "pageInfo": info_}


def _path(cursor: str | None) -> str:
    try:
        return ids.parse("Path", cursor) if cursor else ""
    except NotFound as error:
        raise Refused(f"{cursor!r} is no cursor of this server.") from error


def _file(context: Context, row: sqlite3.Row) -> Raw:
    if row["ref"]:
        return views.file(row, row["ref"])
    return views.file(row, context.services.blobs.download_url(context.base_url, row["sha256"], row["path"]))


def _aliases(db: sqlite3.Connection, member: int) -> list[Raw]:
    row = db.execute("SELECT * FROM artifact_memberships WHERE id = ?", (member,)).fetchone()
    return [views.version_alias(row), *(views.alias(one) for one in links.aliases(db, member))]


# Versions


@artifact_type.field("artifactSequence")
def resolve_sequence(artifact: Raw, info: Info) -> Raw:
    """The collection in which it was logged."""
    sql = "SELECT * FROM artifact_collections WHERE id = ?"
    with info.context.services.store.read() as db:
        return views.collection(db.execute(sql, (artifact["sequence_row"],)).fetchone())


@artifact_type.field("artifactType")
def resolve_artifact_type(artifact: Raw, info: Info) -> Raw:
    """Its collection's type."""
    sql = "SELECT * FROM artifact_types WHERE project_id = ? AND name = ?"
    with info.context.services.store.read() as db:
        return views.kind(db.execute(sql, (artifact["project_row"], artifact["type"])).fetchone())


@artifact_type.field("tags")
def resolve_tags(artifact: Raw, info: Info) -> list[Raw]:
    """By name."""
    with info.context.services.store.read() as db:
        return [views.tag(name) for name in versions.tags_of(db, artifact["row"])]


@artifact_type.field("aliases")
def resolve_aliases(artifact: Raw, info: Info) -> list[Raw]:
    """In every collection that it is in."""
    with info.context.services.store.read() as db:
        return [alias for row in _memberships(db, artifact["row"]) for alias in _aliases(db, row["id"])]


@artifact_type.field("artifactMemberships")
def resolve_memberships(artifact: Raw, info: Info) -> Raw:
    """Its own collection and those that link to it."""
    with info.context.services.store.read() as db:
        return pages.connection([views.membership(row) for row in _memberships(db, artifact["row"])])


def _memberships(db: sqlite3.Connection, artifact: int) -> list[sqlite3.Row]:
    sql = "SELECT * FROM artifact_memberships WHERE artifact_id = ? ORDER BY id"
    return db.execute(sql, (artifact,)).fetchall()


@artifact_type.field("currentManifest")
def resolve_manifest(artifact: Raw, info: Info) -> Raw | None:
    """Where the manifest can be fetched; nothing before the commit and after the deletion."""
    context: Context = info.context
    if artifact["manifest_sha256"] is None:
        return None
    name = "wandb_manifest.json"
    url = context.services.blobs.download_url(context.base_url, artifact["manifest_sha256"], name)
    key = f"artifact/{artifact['row']}"
    file = {"id": ids.make("File", f"{key}/manifest"), "name": name, "directUrl": url, "url": url}
    return {"id": ids.make("ArtifactManifest", key), "file": file}


@artifact_type.field("createdBy")
def resolve_creator(artifact: Raw, info: Info) -> Raw | None:
    """The run that logged it, for those who may see it."""
    with info.context.services.store.read() as db:
        return next(iter(_visible(db, info.context, [artifact["run_row"]])), None)


@artifact_type.field("usedBy")
def resolve_users(artifact: Raw, info: Info) -> Raw:
    """The runs that used it, as far as the user may see them."""
    with info.context.services.store.read() as db:
        return pages.connection(_visible(db, info.context, lineage.users(db, artifact["row"])))


def _visible(db: sqlite3.Connection, context: Context, runs: list[int | None]) -> list[Raw]:
    found = []
    for run in runs:
        with contextlib.suppress(NotFound, Forbidden):
            found += [outside.run(db, context, run)] if run is not None else []
    return found


@artifact_type.field("filesByManifestEntries")
def resolve_files_by_entries(
    artifact: Raw, info: Info, entries: list[Raw] | None = None, **_form: Any
) -> Raw:
    """URLs of some of its files."""
    names = [entry["name"] for entry in entries or ()]
    member: Raw = {"artifact_row": artifact["row"]}
    found: Raw = resolve_member_files(member, info, names=names, first=pages.LARGEST)
    return found


# Runs


@run_type.field("outputArtifacts")
def resolve_outputs(run: Raw, info: Info, first: int | None = None, after: str | None = None) -> Raw:
    """What a run logged."""
    with info.context.services.store.read() as db:
        rows = lineage.outputs(db, run["row"])
    return pages.page(rows, lambda row: str(row["id"]), views.artifact, first, after)


@run_type.field("inputArtifacts")
def resolve_inputs(run: Raw, info: Info, first: int | None = None, after: str | None = None) -> Raw:
    """What a run used."""
    with info.context.services.store.read() as db:
        rows = lineage.inputs(db, run["row"])
    return pages.page(rows, lambda row: str(row["id"]), views.artifact, first, after)


BINDABLES = [artifact_type, membership_type, alias_type, run_type, creator_type]
