"""The page of one version: what it is, what is in it, which run made it and which used it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlenv_local.wandb_server.artifacts import collections, lineage, links, naming, uploads, versions
from mlenv_local.wandb_server.errors import NotFound
from mlenv_local.wandb_server.web import frame, urls
from mlenv_local.wandb_server.web.artifact_pages import artifacts_crumb
from mlenv_local.wandb_server.web.markup import Html, Node, facts, section, table, tag
from mlenv_local.wandb_server.web.viewing import (
    above,
    listing,
    member_link,
    memberships,
    parsed,
    run_link,
    version_link,
)

if TYPE_CHECKING:
    import sqlite3

    from mlenv_local.wandb_server.web.viewing import View

FILES, RUNS = 500, 50


def one_version(view: View, entity: str, project: str, name: str, alias: str) -> str:
    """Everything about the version that an alias or `v7` names in a collection."""
    row = collections.named(view.db, view.user, entity, project, name)
    member = links.resolve(view.db, row["id"], alias)
    if member is None:
        raise NotFound(f"{entity}/{project}/{name} has no version {alias!r}: it was never there, or deleted.")
    one = versions.get(view.db, view.user, member["artifact_id"])
    here = f"{name}:v{member['version_index']}"
    address = urls.member(row, member["version_index"])
    return view.page(
        here,
        _about(view, row, member, one),
        section("Lineage", *_lineage(view, row, one)),
        section("Metadata", table("Metadata", ("Name", "Value"), frame.flat(parsed(one["metadata"])))),
        section("Files", *_files(view, one["id"], address)),
        crumbs=[
            *above(row, entity="entity", project="project"),
            artifacts_crumb(row),
            (name, urls.collection(row)),
        ],
    )


def _about(view: View, row: sqlite3.Row, member: sqlite3.Row, one: sqlite3.Row) -> Html:
    linked = row["kind"] == collections.PORTFOLIO
    return facts(
        [
            ("Type", row["type"]),
            ("Aliases", frame.labels([a["alias"] for a in links.aliases(view.db, member["id"])])),
            ("Tags", frame.labels(versions.tags_of(view.db, one["id"]))),
            ("Linked from", version_link(view, one) if linked else None),
            ("Size", f"{frame.size(one['size'])} in {frame.counted(one['file_count'], 'file')}"),
            ("Digest", tag("code", one["digest"])),
            ("Created", frame.moment(one["created_ms"])),
            ("Time to live", time_to_live(one["ttl_seconds"])),
            ("Expires", frame.moment(one["expires_ms"])),
            ("Description", one["description"]),
        ]
    )


def time_to_live(seconds: int | None) -> str:
    """In words."""
    if seconds is None:
        return "inherited: none"
    return "for ever" if seconds == naming.TTL_NEVER else frame.duration(seconds * 1000)


def _lineage(view: View, row: sqlite3.Row, one: sqlite3.Row) -> list[Node]:
    maker = run_link(view, one["run_id"])
    using = lineage.users(view.db, one["id"])
    users = [run_link(view, run) for run in using[-RUNS:]]
    rest = f"The last {RUNS} of {len(using)} runs:" if len(using) > RUNS else None
    elsewhere = [
        m for m in memberships(view, one["id"]) if m["collection_id"] not in (row["id"], one["sequence_id"])
    ]
    return [
        tag("h3", "Logged by"),
        listing([maker], "No run that is still there."),
        tag("h3", "Used by"),
        rest and tag("p", rest),
        listing(users, "No run."),
        tag("h3", "Linked to"),
        listing([member_link(view, m) for m in elsewhere], "No other collection."),
    ]


def _files(view: View, artifact: int, address: str) -> list[Node]:
    query = "SELECT * FROM artifact_entries WHERE artifact_id = ? ORDER BY path LIMIT ? OFFSET ?"
    skip = (view.number - 1) * FILES
    entries = view.db.execute(query, (artifact, FILES, skip)).fetchall()
    total = uploads.files(view.db, artifact, names=None, after="", first=0).total
    return [
        table("Files", ("File", "Size", "Digest"), [_file(view, entry) for entry in entries]),
        frame.pager(address, view.number, total, "files", FILES),
    ]


def _file(view: View, entry: sqlite3.Row) -> tuple[Node, ...]:
    # A reference is only told, never linked: its address is what somebody wrote, with any scheme.
    told = f"{entry['path']} → {entry['ref']}"
    name = view.file(entry["sha256"], entry["path"]) if entry["sha256"] else told
    return (name, frame.size(entry["size"]), tag("code", entry["digest"]))
