"""Reading artifacts: what the client asks of projects, collections, versions and runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ariadne import InterfaceType, ObjectType, QueryType

from mlenv_local.wandb_server import ids, pages
from mlenv_local.wandb_server.artifacts import (
    collections,
    expiry,
    links,
    naming,
    searching,
    versions,
    views,
)
from mlenv_local.wandb_server.errors import NotFound
from mlenv_local.wandb_server.resolvers import outside
from mlenv_local.wandb_server.resolvers.base import SERVED_FEATURES

if TYPE_CHECKING:
    from mlenv_local.wandb_server.context import Context, Info, Raw

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
kind_type = ObjectType("ArtifactType")
sequence_type = ObjectType("ArtifactSequence")
portfolio_type = ObjectType("ArtifactPortfolio")
project_type = ObjectType("Project")
collection_type = InterfaceType("ArtifactCollection", lambda value, *_: value["kind"])


@query.field("artifact")
def resolve_artifact(_: None, info: Info, id: str) -> Raw | None:
    """A version in any state, or nothing."""
    context: Context = info.context
    expiry.expire(context.services.store)
    with context.services.store.read() as db:
        try:
            return views.artifact(versions.get(db, context.user, ids.parse_int("Artifact", id)))
        except NotFound:
            return None


@query.field("artifactCollection")
def resolve_collection_by_id(_: None, info: Info, id: str) -> Raw | None:
    """A collection of either kind, or nothing."""
    with info.context.services.store.read() as db:
        try:
            return views.collection(collections.by_id(db, info.context.user, collection_row(id)))
        except NotFound:
            return None


@query.field("clientIDMapping")
def resolve_client_id(_: None, info: Info, clientID: str) -> Raw | None:
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
def resolve_membership_by_name(project: Raw, info: Info, name: str) -> Raw | None:
    """`collection:alias`, `collection:v7`, or the latest of a collection."""
    collection, alias = naming.split(name)
    return _member(info.context, project["row"], collection, alias)


@project_type.field("artifact")
def resolve_artifact_by_name(project: Raw, info: Info, name: str) -> Raw | None:
    """The same, as the version itself."""
    member = resolve_membership_by_name(project, info, name)
    with info.context.services.store.read() as db:
        return views.artifact(versions.get(db, info.context.user, member["artifact_row"])) if member else None


@project_type.field("artifactCollection")
def resolve_collection(project: Raw, info: Info, name: str) -> Raw | None:
    """A collection by name."""
    with info.context.services.store.read() as db:
        row = collections.find(db, project["row"], name)
        return views.collection(row) if row else None


@project_type.field("artifactCollections")
def resolve_collections(
    project: Raw,
    info: Info,
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
    info: Info,
    *,
    first: int | None = None,
    after: str | None = None,
    includeAll: bool | None = None,  # noqa: ARG001  (the schema's; all are always included)
) -> Raw:
    """By name."""
    sql = "SELECT * FROM artifact_types WHERE project_id = ? ORDER BY name"
    with info.context.services.store.read() as db:
        rows = db.execute(sql, (project["row"],)).fetchall()
    return pages.page(rows, lambda row: row["name"], views.kind, first, after)


@project_type.field("artifactType")
def resolve_type(project: Raw, info: Info, name: str) -> Raw | None:
    """One by name."""
    sql = "SELECT * FROM artifact_types WHERE project_id = ? AND name = ?"
    with info.context.services.store.read() as db:
        row = db.execute(sql, (project["row"], name)).fetchone()
        return views.kind(row) if row else None


@kind_type.field("artifactCollection")
def resolve_collection_of_type(kind: Raw, info: Info, name: str) -> Raw | None:
    """A collection of that type by name."""
    with info.context.services.store.read() as db:
        row = collections.find(db, kind["project_row"], name)
        return views.collection(row) if row and row["type_id"] == kind["row"] else None


@kind_type.field("artifactCollections")
def resolve_collections_of_type(
    kind: Raw,
    info: Info,
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
def resolve_collection_project(collection: Raw, info: Info) -> Raw | None:
    """Where it is; nothing for those who know it only because a version of it is linked elsewhere."""
    with info.context.services.store.read() as db:
        if not collections.may_read(db, info.context.user, collection["project_row"]):
            return None
        return outside.project(db, info.context, collection["project_row"])


@sequence_type.field("defaultArtifactType")
@portfolio_type.field("defaultArtifactType")
def resolve_collection_type(collection: Raw, info: Info) -> Raw:
    """The type of all that is in it."""
    with info.context.services.store.read() as db:
        row = db.execute("SELECT * FROM artifact_types WHERE id = ?", (collection["type_row"],)).fetchone()
        return views.kind(row)


@sequence_type.field("tags")
@portfolio_type.field("tags")
def resolve_collection_tags(collection: Raw, info: Info) -> Raw:
    """By name."""
    with info.context.services.store.read() as db:
        return pages.connection([views.tag(name) for name in collections.tags(db, collection["row"])])


@sequence_type.field("aliases")
@portfolio_type.field("aliases")
def resolve_collection_aliases(
    collection: Raw, info: Info, first: int | None = None, after: str | None = None
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
    info: Info,
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
def resolve_collection_membership(collection: Raw, info: Info, aliasName: str) -> Raw | None:
    """The member that an alias or a version names."""
    with info.context.services.store.read() as db:
        row = links.resolve(db, collection["row"], aliasName)
        return views.membership(row) if row else None


@sequence_type.field("latestArtifact")
def resolve_latest(sequence: Raw, info: Info) -> Raw | None:
    """The newest version, whatever its aliases."""
    sql = (
        f"{versions.VERSION} WHERE a.sequence_id = ? AND a.state = 'COMMITTED' ORDER BY a.version_index DESC"
    )
    with info.context.services.store.read() as db:
        row = db.execute(sql, (sequence["row"],)).fetchone()
        return views.artifact(row) if row else None


def _member(context: Context, project: int, collection: str, alias: str) -> Raw | None:
    expiry.expire(context.services.store)
    with context.services.store.read() as db:
        found = collections.find(db, project, collection)
        row = links.resolve(db, found["id"], alias) if found else None
        return views.membership(row) if row else None


BINDABLES = [
    query,
    kind_type,
    sequence_type,
    portfolio_type,
    project_type,
    collection_type,
]
