"""The registry: the organisation's own projects, their collections and versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ariadne import MutationType, ObjectType

from mlenv_local.wandb_server import ids, pages, projects
from mlenv_local.wandb_server.artifacts import collections, expiry, registries, searching
from mlenv_local.wandb_server.resolvers import outside
from mlenv_local.wandb_server.resolvers.base import SERVED_FEATURES

if TYPE_CHECKING:
    import sqlite3

    from mlenv_local.wandb_server.context import Context, Info, Raw

SERVED_FEATURES |= {"ARTIFACT_REGISTRY_SEARCH", "INCLUDE_ARTIFACT_TYPES_IN_REGISTRY_CREATION"}

mutation = MutationType()
entity_type = ObjectType("Entity")
project_type = ObjectType("Project")
organization_type = ObjectType("Organization")


@organization_type.field("advancedRegistryFeatures")
def resolve_features(*_: Any, **__: Any) -> Raw:
    """Filters go to the database that holds everything; there is no second, advanced one."""
    return {"advancedSearch": False}


@entity_type.field("project")
def resolve_project(entity: Raw, info: Info, name: str | None = None) -> Raw | None:
    """A project of that entity; the registries that every organisation has are there from the start."""
    context: Context = info.context
    _core(context, entity)
    with context.services.store.read() as db:
        row = next((one for one in _projects(db, context, entity) if one["name"] == name), None)
        return outside.project(db, info.context, row["id"]) if row else None


@entity_type.field("projects")
def resolve_projects(
    entity: Raw,
    info: Info,
    *,
    filters: str | None = None,
    first: int | None = None,
    after: str | None = None,
    order: str | None = None,
) -> Raw:
    """An entity's projects; an organisation's are its registries."""
    context: Context = info.context
    _core(context, entity)
    with context.services.store.read() as db:
        rows = _matching(db, context, entity, filters, order)
        return pages.page(
            rows,
            lambda row: str(row["id"]),
            lambda row: outside.project(db, info.context, row["id"]),
            first,
            after,
        )


@entity_type.field("artifactCollections")
def resolve_collections(
    entity: Raw,
    info: Info,
    *,
    projectFilters: str | None = None,
    filters: str | None = None,
    collectionTypes: list[str] | None = None,
    first: int | None = None,
    after: str | None = None,
    order: str | None = None,
) -> Raw:
    """Collections over several registries."""
    context: Context = info.context
    with context.services.store.read() as db:
        found_in = [row["id"] for row in _matching(db, context, entity, projectFilters)]
        rows = collections.listed(db, found_in, collectionTypes or ())
        return searching.collections_page(db, rows, searching.Asked(filters, order, first, after))


@entity_type.field("artifactMemberships")
def resolve_memberships(
    entity: Raw,
    info: Info,
    *,
    projectFilters: str | None = None,
    collectionFilters: str | None = None,
    filters: str | None = None,
    first: int | None = None,
    after: str | None = None,
    order: str | None = None,
) -> Raw:
    """Versions over several registries."""
    context: Context = info.context
    expiry.expire(context.services.store)
    with context.services.store.read() as db:
        found_in = [row["id"] for row in _matching(db, context, entity, projectFilters)]
        found = searching.matching_collections(
            db, collections.listed(db, found_in), searching.Asked(collectionFilters)
        )
        members = searching.members(db, [row["id"] for row in found])
        return searching.members_page(db, members, searching.Asked(filters, order, first, after))


@project_type.field("allowAllArtifactTypesInRegistry")
def resolve_all_types(project: Raw, info: Info) -> bool:
    """Whether a registry takes every type; projects do."""
    with info.context.services.store.read() as db:
        return registries.takes_all(db, project["row"])


@mutation.field("renameProject")
def rename_project(_: None, info: Info, input: Raw) -> Raw:
    """Give a registry another name."""
    context: Context = info.context
    path = (input["entityName"], input["oldProjectName"], input["newProjectName"])
    with context.services.store.write() as db:
        row = registries.rename(db, context.user, *path)
        return {"inserted": False, "project": outside.project(db, context, row)}


@mutation.field("deleteModel")
def delete_model(_: None, info: Info, input: Raw) -> Raw:
    """Delete a project or a registry with all that is in it."""
    context: Context = info.context
    with context.services.store.write() as db:
        row = projects.by_id(db, context.user, ids.parse_int("Project", input["id"]))
        registries.delete(db, context.services.blobs, row["id"])
    return {"success": True}


def _core(context: Context, entity: Raw) -> None:
    """Make the core registries once somebody looks."""
    if entity["entityType"] != "organization":
        return
    with context.services.store.read() as db:
        have = {row["name"] for row in _projects(db, context, entity)}
    if have >= collections.CORE_REGISTRIES:
        return
    with context.services.store.write() as db:
        for name in sorted(collections.CORE_REGISTRIES):
            collections.project(db, context.user, entity["name"], name)


def _projects(db: sqlite3.Connection, context: Context, entity: Raw) -> list[sqlite3.Row]:
    rows = db.execute("SELECT * FROM projects WHERE entity_id = ? ORDER BY id", (entity["row"],)).fetchall()
    return [row for row in rows if collections.may_read(db, context.user, row["id"])]


def _matching(
    db: sqlite3.Connection, context: Context, entity: Raw, wanted: str | None, order: str | None = None
) -> list[sqlite3.Row]:
    return searching.projects(_projects(db, context, entity), searching.Asked(wanted, order))


BINDABLES = [mutation, entity_type, project_type, organization_type]
