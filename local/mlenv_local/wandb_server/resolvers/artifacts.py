"""Reading artifacts: what the client asks of projects, collections, versions and runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ariadne import InterfaceType, ObjectType, QueryType, UnionType

from mlenv_local.wandb_server import ids, pages
from mlenv_local.wandb_server.artifacts import (
    collections,
    expiry,
    lineage,
    links,
    naming,
    searching,
    uploads,
    versions,
    views,
)
from mlenv_local.wandb_server.errors import NotFound, Refused
from mlenv_local.wandb_server.resolvers import outside
from mlenv_local.wandb_server.resolvers.base import SERVED_FEATURES

if TYPE_CHECKING:
    import sqlite3

    from graphql import GraphQLResolveInfo

    from mlenv_local.wandb_server.context import Context

Raw = dict[str, Any]

SERVED_FEATURES |= {
    "LARGE_FILENAMES",
    "ARTIFACT_TAGS",
    "CLIENT_IDS",
    "ARTIFACT_COLLECTION_MEMBERSHIP_FILES",
    "ARTIFACT_COLLECTION_MEMBERSHIP_FILE_DOWNLOAD_HANDLER",
    "USE_ARTIFACT_WITH_ENTITY_AND_PROJECT_INFORMATION",
    "PROJECT_ARTIFACT_COLLECTION_MEMBERSHIP",
    "ARTIFACT_MEMBERSHIP_IN_LINK_ARTIFACT_RESPONSE",
    "TOTAL_COUNT_IN_FILE_CONNECTION",
    "ARTIFACT_COLLECTIONS_FILTERING_SORTING",
    "ARTIFACT_V2_DOWNLOAD_HANDLER_SUPPORTS_ARTIFACT_ID",
}

query = QueryType()
artifact_type = ObjectType("Artifact")
kind_type = ObjectType("ArtifactType")
sequence_type = ObjectType("ArtifactSequence")
portfolio_type = ObjectType("ArtifactPortfolio")
membership_type = ObjectType("ArtifactCollectionMembership")
alias_type = ObjectType("ArtifactAlias")
project_type = ObjectType("Project")
run_type = ObjectType("Run")
collection_type = InterfaceType("ArtifactCollection", lambda value, *_: value["kind"])
creator_type = UnionType("ArtifactCreator", lambda value, *_: ids.kind(value["id"]))


@query.field("artifact")
def resolve_artifact(_: None, info: GraphQLResolveInfo, id: str) -> Raw | None:  # noqa: A002  (the schema's word)
    """A version in any state, or nothing."""
    context: Context = info.context
    expiry.expire(context.services.store)
    with context.services.store.read() as db:
        try:
            return views.artifact(versions.get(db, context.user, ids.parse_int("Artifact", id)))
        except NotFound:
            return None


@query.field("artifactCollection")
def resolve_collection_by_id(_: None, info: GraphQLResolveInfo, id: str) -> Raw | None:  # noqa: A002
    """A collection of either kind, or nothing."""
    with info.context.services.store.read() as db:
        try:
            return views.collection(collections.by_id(db, info.context.user, collection_row(id)))
        except NotFound:
            return None


@query.field("clientIDMapping")
def resolve_client_id(_: None, info: GraphQLResolveInfo, clientID: str) -> Raw | None:  # noqa: N803
    """The server's id for the one that a client gave."""
    with info.context.services.store.read() as db:
        artifact = versions.of_client(db, clientID)
        return None if artifact is None else {"serverID": ids.make("Artifact", artifact)}


def collection_row(text: str) -> int:
    """The row in the id of a sequence or a portfolio."""
    try:
        return ids.parse_int("ArtifactSequence", text)
    except NotFound:
        return ids.parse_int("ArtifactPortfolio", text)


# Projects


@project_type.field("artifactCollectionMembership")
def resolve_membership_by_name(project: Raw, info: GraphQLResolveInfo, name: str) -> Raw | None:
    """`collection:alias`, `collection:v7`, or the latest of a collection."""
    collection, alias = naming.split(name)
    return _member(info.context, project["row"], collection, alias)


@project_type.field("artifact")
def resolve_artifact_by_name(project: Raw, info: GraphQLResolveInfo, name: str) -> Raw | None:
    """The same, as the version itself."""
    member = resolve_membership_by_name(project, info, name)
    return None if member is None else resolve_member_artifact(member, info)


@project_type.field("artifactCollection")
def resolve_collection(project: Raw, info: GraphQLResolveInfo, name: str) -> Raw | None:
    """A collection by name."""
    with info.context.services.store.read() as db:
        row = collections.find(db, project["row"], name)
        return views.collection(row) if row else None


@project_type.field("artifactCollections")
def resolve_collections(
    project: Raw,
    info: GraphQLResolveInfo,
    *,
    first: int | None = None,
    after: str | None = None,
    filters: str | None = None,
    order: str | None = None,
) -> Raw:
    """All of a project's."""
    with info.context.services.store.read() as db:
        rows = collections.listed(db, [project["row"]])
        return searching.collections_page(db, rows, searching.Asked(filters, order, first, after))


@project_type.field("artifactTypes")
def resolve_types(
    project: Raw,
    info: GraphQLResolveInfo,
    *,
    first: int | None = None,
    after: str | None = None,
    includeAll: bool | None = None,  # noqa: FBT001, N803, ARG001  (the schema's; all are always included)
) -> Raw:
    """By name."""
    sql = "SELECT * FROM artifact_types WHERE project_id = ? ORDER BY name"
    with info.context.services.store.read() as db:
        rows = db.execute(sql, (project["row"],)).fetchall()
    return pages.page(rows, lambda row: row["name"], views.kind, first, after)


@project_type.field("artifactType")
def resolve_type(project: Raw, info: GraphQLResolveInfo, name: str) -> Raw | None:
    """One by name."""
    sql = "SELECT * FROM artifact_types WHERE project_id = ? AND name = ?"
    with info.context.services.store.read() as db:
        row = db.execute(sql, (project["row"], name)).fetchone()
        return views.kind(row) if row else None


@kind_type.field("artifactCollection")
def resolve_collection_of_type(kind: Raw, info: GraphQLResolveInfo, name: str) -> Raw | None:
    """A collection of that type by name."""
    with info.context.services.store.read() as db:
        row = collections.find(db, kind["project_row"], name)
        return views.collection(row) if row and row["type_id"] == kind["row"] else None


@kind_type.field("artifactCollections")
def resolve_collections_of_type(
    kind: Raw,
    info: GraphQLResolveInfo,
    *,
    first: int | None = None,
    after: str | None = None,
    filters: str | None = None,
    order: str | None = None,
) -> Raw:
    """All of that type."""
    with info.context.services.store.read() as db:
        rows = [row for row in collections.listed(db, [kind["project_row"]]) if row["type_id"] == kind["row"]]
        return searching.collections_page(db, rows, searching.Asked(filters, order, first, after))


# Collections


@sequence_type.field("project")
@portfolio_type.field("project")
def resolve_collection_project(collection: Raw, info: GraphQLResolveInfo) -> Raw | None:
    """Where it is."""
    with info.context.services.store.read() as db:
        return outside.project(db, info.context, collection["project_row"])


@sequence_type.field("defaultArtifactType")
@portfolio_type.field("defaultArtifactType")
def resolve_collection_type(collection: Raw, info: GraphQLResolveInfo) -> Raw:
    """The type of all that is in it."""
    with info.context.services.store.read() as db:
        row = db.execute("SELECT * FROM artifact_types WHERE id = ?", (collection["type_row"],)).fetchone()
        return views.kind(row)


@sequence_type.field("tags")
@portfolio_type.field("tags")
def resolve_collection_tags(collection: Raw, info: GraphQLResolveInfo) -> Raw:
    """By name."""
    with info.context.services.store.read() as db:
        return pages.connection([views.tag(name) for name in collections.tags(db, collection["row"])])


@sequence_type.field("aliases")
@portfolio_type.field("aliases")
def resolve_collection_aliases(
    collection: Raw, info: GraphQLResolveInfo, first: int | None = None, after: str | None = None
) -> Raw:
    """Every alias that somebody gave."""
    sql = "SELECT * FROM artifact_aliases WHERE collection_id = ? ORDER BY alias"
    with info.context.services.store.read() as db:
        rows = db.execute(sql, (collection["row"],)).fetchall()
    return pages.page(rows, lambda row: row["alias"], views.alias, first, after)


@sequence_type.field("artifacts")
@portfolio_type.field("artifacts")
def resolve_collection_artifacts(
    collection: Raw,
    info: GraphQLResolveInfo,
    *,
    first: int | None = None,
    after: str | None = None,
    order: str | None = None,
    filters: str | None = None,
) -> Raw:
    """Its versions, the newest first unless an order says otherwise."""
    expiry.expire(info.context.services.store)
    with info.context.services.store.read() as db:
        members = searching.members(db, [collection["row"]])
        found = searching.members_page(db, members, searching.Asked(filters, order, first, after))
        for edge in found["edges"]:
            edge["version"] = f"v{edge['node']['versionIndex']}"
            row = versions.get(db, info.context.user, edge["node"]["artifact_row"])
            edge["node"] = views.artifact(row)
        return found


@sequence_type.field("artifactMembership")
@portfolio_type.field("artifactMembership")
def resolve_collection_membership(collection: Raw, info: GraphQLResolveInfo, aliasName: str) -> Raw | None:  # noqa: N803
    """The member that an alias or a version names."""
    with info.context.services.store.read() as db:
        row = links.resolve(db, collection["row"], aliasName)
        return views.membership(row) if row else None


@sequence_type.field("latestArtifact")
def resolve_latest(sequence: Raw, info: GraphQLResolveInfo) -> Raw | None:
    """The newest version, whatever its aliases."""
    sql = (
        f"{versions.VERSION} WHERE a.sequence_id = ? AND a.state = 'COMMITTED' ORDER BY a.version_index DESC"
    )
    with info.context.services.store.read() as db:
        row = db.execute(sql, (sequence["row"],)).fetchone()
        return views.artifact(row) if row else None


# Memberships and aliases


@membership_type.field("artifact")
def resolve_member_artifact(member: Raw, info: GraphQLResolveInfo) -> Raw | None:
    """The version."""
    with info.context.services.store.read() as db:
        return views.artifact(versions.get(db, info.context.user, member["artifact_row"]))


@membership_type.field("artifactCollection")
@alias_type.field("artifactCollection")
def resolve_member_collection(member: Raw, info: GraphQLResolveInfo) -> Raw | None:
    """The collection."""
    with info.context.services.store.read() as db:
        row = db.execute(
            "SELECT * FROM artifact_collections WHERE id = ?", (member["collection_row"],)
        ).fetchone()
        return views.collection(row) if row else None


@membership_type.field("aliases")
def resolve_member_aliases(member: Raw, info: GraphQLResolveInfo) -> list[Raw]:
    """Its version and the names that people gave."""
    with info.context.services.store.read() as db:
        return _aliases(db, member["row"])


@membership_type.field("files")
def resolve_member_files(
    member: Raw,
    info: GraphQLResolveInfo,
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
    url = context.services.blobs.download_url(context.base_url, row["sha256"], row["path"])
    return views.file(row, url)


def _member(context: Context, project: int, collection: str, alias: str) -> Raw | None:
    expiry.expire(context.services.store)
    with context.services.store.read() as db:
        found = collections.find(db, project, collection)
        row = links.resolve(db, found["id"], alias) if found else None
        return views.membership(row) if row else None


def _aliases(db: sqlite3.Connection, member: int) -> list[Raw]:
    row = db.execute("SELECT * FROM artifact_memberships WHERE id = ?", (member,)).fetchone()
    return [views.version_alias(row), *(views.alias(one) for one in links.aliases(db, member))]


# Versions


@artifact_type.field("artifactSequence")
def resolve_sequence(artifact: Raw, info: GraphQLResolveInfo) -> Raw:
    """The collection in which it was logged."""
    sql = "SELECT * FROM artifact_collections WHERE id = ?"
    with info.context.services.store.read() as db:
        return views.collection(db.execute(sql, (artifact["sequence_row"],)).fetchone())


@artifact_type.field("artifactType")
def resolve_artifact_type(artifact: Raw, info: GraphQLResolveInfo) -> Raw:
    """Its collection's type."""
    sql = "SELECT * FROM artifact_types WHERE project_id = ? AND name = ?"
    with info.context.services.store.read() as db:
        return views.kind(db.execute(sql, (artifact["project_row"], artifact["type"])).fetchone())


@artifact_type.field("tags")
def resolve_tags(artifact: Raw, info: GraphQLResolveInfo) -> list[Raw]:
    """By name."""
    with info.context.services.store.read() as db:
        return [views.tag(name) for name in versions.tags_of(db, artifact["row"])]


@artifact_type.field("aliases")
def resolve_aliases(artifact: Raw, info: GraphQLResolveInfo) -> list[Raw]:
    """In every collection that it is in."""
    with info.context.services.store.read() as db:
        return [alias for row in _memberships(db, artifact["row"]) for alias in _aliases(db, row["id"])]


@artifact_type.field("artifactMemberships")
def resolve_memberships(artifact: Raw, info: GraphQLResolveInfo) -> Raw:
    """Its own collection and those that link to it."""
    with info.context.services.store.read() as db:
        return pages.connection([views.membership(row) for row in _memberships(db, artifact["row"])])


def _memberships(db: sqlite3.Connection, artifact: int) -> list[sqlite3.Row]:
    sql = "SELECT * FROM artifact_memberships WHERE artifact_id = ? ORDER BY id"
    return db.execute(sql, (artifact,)).fetchall()


@artifact_type.field("currentManifest")
def resolve_manifest(artifact: Raw, info: GraphQLResolveInfo) -> Raw | None:
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
def resolve_creator(artifact: Raw, info: GraphQLResolveInfo) -> Raw | None:
    """The run that logged it."""
    if artifact["run_row"] is None:
        return None
    with info.context.services.store.read() as db:
        return outside.run(db, info.context, artifact["run_row"])


@artifact_type.field("usedBy")
def resolve_users(artifact: Raw, info: GraphQLResolveInfo) -> Raw:
    """The runs that used it."""
    with info.context.services.store.read() as db:
        runs = [outside.run(db, info.context, run) for run in lineage.users(db, artifact["row"])]
        return pages.connection([run for run in runs if run])


@artifact_type.field("filesByManifestEntries")
def resolve_files_by_entries(
    artifact: Raw, info: GraphQLResolveInfo, entries: list[Raw] | None = None, **_form: Any
) -> Raw:
    """URLs of some of its files."""
    names = [entry["name"] for entry in entries or ()]
    return resolve_member_files({"artifact_row": artifact["row"]}, info, names=names, first=pages.LARGEST)


# Runs


@run_type.field("outputArtifacts")
def resolve_outputs(
    run: Raw, info: GraphQLResolveInfo, first: int | None = None, after: str | None = None
) -> Raw:
    """What a run logged."""
    with info.context.services.store.read() as db:
        rows = lineage.outputs(db, run["row"])
    return pages.page(rows, lambda row: str(row["id"]), views.artifact, first, after)


@run_type.field("inputArtifacts")
def resolve_inputs(
    run: Raw, info: GraphQLResolveInfo, first: int | None = None, after: str | None = None
) -> Raw:
    """What a run used."""
    with info.context.services.store.read() as db:
        rows = lineage.inputs(db, run["row"])
    return pages.page(rows, lambda row: str(row["id"]), views.artifact, first, after)


BINDABLES = [
    query,
    artifact_type,
    kind_type,
    sequence_type,
    portfolio_type,
    membership_type,
    alias_type,
    project_type,
    run_type,
    collection_type,
    creator_type,
]
