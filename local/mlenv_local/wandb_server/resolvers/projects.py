"""Projects and the runs in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ariadne import MutationType, ObjectType, QueryType

from mlenv_local.wandb_server import ids, pages, projects, runs, selection
from mlenv_local.wandb_server.artifacts import registries
from mlenv_local.wandb_server.clock import iso
from mlenv_local.wandb_server.resolvers.base import entity_view, user_view
from mlenv_local.wandb_server.resolvers.runs import run_view

if TYPE_CHECKING:
    import sqlite3

    from mlenv_local.wandb_server.context import Context, Info, Raw

query = QueryType()
mutation = MutationType()
project_type = ObjectType("Project")


def project_view(row: sqlite3.Row) -> Raw:
    """A project as the schema's Project."""
    return {
        "row": row["id"],
        "entity_row": row["entity_id"],
        "user_row": row["user_id"],
        "id": ids.make("Project", row["id"]),
        "internalId": str(row["id"]),
        "name": row["name"],
        "entityName": row["entity_name"],
        "description": row["description"],
        "access": row["access"],
        "views": "{}",
        "isBenchmark": False,
        "readOnly": False,
        "createdAt": iso(row["created_ms"]),
        "tags": [],
    }


@query.field("project")
@query.field("model")
def resolve_project(
    _: None, info: Info, name: str | None = None, entityName: str | None = None
) -> Raw | None:
    """A project by name, or null."""
    with info.context.services.store.read() as db:
        row = projects.find(db, info.context.user, name, entityName)
        return project_view(row) if row else None


@query.field("models")
def resolve_projects(
    _: None, info: Info, entityName: str | None = None, first: int | None = None, after: str | None = None
) -> Raw:
    """All projects of an entity, the newest first."""
    with info.context.services.store.read() as db:
        rows = projects.of_entity(db, info.context.user, entityName)
    return pages.page(rows, lambda row: str(row["id"]), project_view, first, after)


@project_type.field("entity")
def resolve_entity(project: Raw, info: Info) -> Raw:
    """Who owns it."""
    with info.context.services.store.read() as db:
        row = db.execute("SELECT * FROM entities WHERE id = ?", (project["entity_row"],)).fetchone()
        return entity_view(row)


@project_type.field("user")
def resolve_user(project: Raw, info: Info) -> Raw | None:
    """Who made it."""
    with info.context.services.store.read() as db:
        row = db.execute("SELECT * FROM users WHERE id = ?", (project["user_row"],)).fetchone()
        return user_view(row) if row else None


@project_type.field("run")
@project_type.field("bucket")
def resolve_run(project: Raw, info: Info, name: str, **_: Any) -> Raw | None:
    """A run by its id, or null."""
    with info.context.services.store.read() as db:
        row = runs.find(db, project["row"], name)
        return run_view(row, info.context) if row else None


@project_type.field("runCount")
def resolve_run_count(project: Raw, info: Info, filters: str | None = None) -> int:
    """How many runs fulfil a condition."""
    return len(_selected(project, info.context, filters, None))


@project_type.field("runs")
def resolve_runs(
    project: Raw,
    info: Info,
    *,
    first: int | None = None,
    after: str | None = None,
    order: str | None = None,
    filters: str | None = None,
    **_: Any,
) -> Raw:
    """A page of the runs that fulfil a condition."""
    chosen = _selected(project, info.context, filters, order)
    return pages.page(
        chosen, lambda row: str(row["id"]), lambda row: run_view(row, info.context), first, after
    )


@mutation.field("upsertModel")
def upsert_model(_: None, info: Info, input: Raw) -> Raw:
    """Make a project, or change its description and access."""
    context: Context = info.context
    with context.services.store.write() as db:
        row, inserted = projects.ensure(db, context.user, input.get("name"), input.get("entityName"))
        projects.update(db, row["id"], input.get("description"), input.get("access"))
        registries.settle(db, row["id"], input)
        view = project_view(projects.by_id(db, context.user, row["id"]))
    return {"project": view, "model": view, "inserted": inserted}


def _selected(project: Raw, context: Context, filters: str | None, order: str | None) -> list[sqlite3.Row]:
    with context.services.store.read() as db:
        rows = runs.all_of(db, project["row"])
    return selection.select(rows, filters, order, context.services.settings.crashed_after)


BINDABLES = [query, mutation, project_type]
