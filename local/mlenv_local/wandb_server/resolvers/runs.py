"""Runs: what they are, and what may be done to them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ariadne import MutationType, ObjectType

from mlenv_local.wandb_server import ids, projects, runs
from mlenv_local.wandb_server.artifacts import versions
from mlenv_local.wandb_server.clock import iso, now_ms
from mlenv_local.wandb_server.resolvers.base import user_view

if TYPE_CHECKING:
    import sqlite3

    from mlenv_local.wandb_server.context import Context, Info, Raw

mutation = MutationType()
run_type = ObjectType("Run")


def run_view(row: sqlite3.Row, context: Context) -> Raw:
    """A row of `runs` as the schema's Run; what it logged is resolved when asked for."""
    return {
        "row": row["id"],
        "raw": row,
        "id": ids.make("Run", row["id"]),
        "internalId": str(row["id"]),
        "projectId": row["project_id"],
        "name": row["name"],
        "displayName": row["display_name"],
        "description": row["description"],
        "notes": row["notes"],
        "tags": json.loads(row["tags"]),
        "group": row["run_group"],
        "jobType": row["job_type"],
        "commit": row["commit_hash"],
        "host": row["host"],
        "program": row["program"],
        "sweepName": row["sweep"],
        "state": runs.state(row, context.services.settings.crashed_after),
        "stopped": bool(row["stop_requested"]),
        "exitCode": row["exit_code"],
        "readOnly": False,
        "config": row["config"],
        "systemMetrics": row["system_metrics"],
        "createdAt": iso(row["created_ms"]),
        "heartbeatAt": iso(row["heartbeat_ms"]),
        "updatedAt": iso(row["heartbeat_ms"]),
    }


@run_type.field("project")
def resolve_project(run: Raw, info: Info) -> Raw:
    """The project it is in."""
    from mlenv_local.wandb_server.resolvers.projects import project_view  # noqa: PLC0415  (each knows the other)

    with info.context.services.store.read() as db:
        return project_view(projects.by_id(db, info.context.user, run["projectId"]))


@run_type.field("user")
def resolve_user(run: Raw, info: Info) -> Raw | None:
    """Who started it."""
    with info.context.services.store.read() as db:
        row = db.execute("SELECT * FROM users WHERE id = ?", (run["raw"]["user_id"],)).fetchone()
        return user_view(row) if row else None


@run_type.field("wandbConfig")
def resolve_wandb_config(run: Raw, _info: Info, keys: list[str] | None = None) -> str:
    """What the client itself keeps in the config; its `t` tells it that the run has been started before."""
    internal = json.loads(run["raw"]["config"]).get("_wandb", {})
    return _only(internal.get("value", internal), keys)


@run_type.field("summaryMetrics")
def resolve_summary(run: Raw, _info: Info, keys: list[str] | None = None) -> str:
    """The summary, or some keys of it."""
    return _only(json.loads(run["raw"]["summary"]), keys) if keys else str(run["raw"]["summary"])


@mutation.field("upsertBucket")
def upsert_bucket(_: None, info: Info, input: Raw) -> Raw:
    """Make a run or change it."""
    context: Context = info.context
    asked = {**input, "id": ids.parse_int("Run", input["id"]) if input.get("id") else None}
    with context.services.store.write() as db:
        row, inserted = runs.upsert(db, context.user, asked)
    return {"bucket": run_view(row, context), "inserted": inserted}


@mutation.field("deleteRun")
def delete_run(_: None, info: Info, input: Raw) -> Raw:
    """Delete a run with everything it logged."""
    context: Context = info.context
    with context.services.store.write() as db:
        row = runs.by_id(db, context.user, ids.parse_int("Run", input["id"]))
        if input.get("deleteArtifacts"):
            versions.delete_logged(db, row["id"])
        runs.delete(db, row["id"])
        context.services.blobs.drop(db, f"run/{row['id']}/")
    return {"clientMutationId": input.get("clientMutationId")}


@mutation.field("stopRun")
def stop_run(_: None, info: Info, input: Raw) -> Raw:
    """Tell the run's process to stop, with the answer to what it sends next."""
    context: Context = info.context
    with context.services.store.write() as db:
        row = runs.by_id(db, context.user, ids.parse_int("Run", input["id"]))
        runs.request_stop(db, row["id"])
    return {"success": True}


@mutation.field("updateRunState")
def update_run_state(_: None, info: Info, input: Raw) -> Raw:
    """Say that a run is pending or failed."""
    context: Context = info.context
    with context.services.store.write() as db:
        row = runs.by_id(db, context.user, ids.parse_int("Run", input["id"]))
        runs.set_state(db, row, input["state"], context.services.settings.crashed_after)
    return {"success": True}


@mutation.field("rewindRun")
def rewind_run(_: None, info: Info, input: Raw) -> Raw:
    """Forget the history behind a step, so that the run can go on from there."""
    context: Context = info.context
    with context.services.store.write() as db:
        path = input.get("entityName"), input.get("projectName"), input["runName"]
        row = runs.by_path(db, context.user, *path)
        runs.rewind(db, row["id"], input["metricName"], input["metricValue"])
        row = runs.by_id(db, context.user, row["id"])
    return {"rewoundRun": run_view(row, context)}


@mutation.field("notifyScriptableRunAlert")
def notify_alert(_: None, info: Info, input: Raw) -> Raw:
    """Keep an alert with its run; nobody is sent a message."""
    context: Context = info.context
    path = input.get("entityName"), input.get("projectName"), input["runName"]
    with context.services.store.write() as db:
        row = runs.by_path(db, context.user, *path)
        said = (row["id"], input["title"], input["text"], input.get("severity") or "INFO", now_ms())
        columns = "(run_id, title, text, severity, created_ms)"
        db.execute(f"INSERT INTO run_alerts {columns} VALUES (?, ?, ?, ?, ?)", said)  # noqa: S608
    return {"success": True}


def _only(value: Raw, keys: list[str] | None) -> str:
    return json.dumps({key: one for key, one in value.items() if keys is None or key in keys})


BINDABLES = [mutation, run_type]
