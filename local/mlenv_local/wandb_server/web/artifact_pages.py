"""Pages of a project's artifacts: collections by type, and the versions of one collection."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from mlenv_local.wandb_server import projects
from mlenv_local.wandb_server.artifacts import collections, links, versions
from mlenv_local.wandb_server.errors import NotFound
from mlenv_local.wandb_server.web import frame, urls
from mlenv_local.wandb_server.web.markup import Html, Node, facts, link, section, table, tag
from mlenv_local.wandb_server.web.projects_page import project_crumbs, tabs
from mlenv_local.wandb_server.web.viewing import above, run_link, version_link

if TYPE_CHECKING:
    import sqlite3

    from mlenv_local.wandb_server.web.viewing import View


def of_project(view: View, entity: str, project: str, kind: str | None = None) -> str:
    """All collections of a project, or those of one type."""
    holder = projects.get(view.db, view.user, project, entity)
    listed = collections.listed(view.db, [holder["id"]])
    rows = sorted(listed, key=lambda row: (row["type"], row["name"]))
    chosen = [row for row in rows if kind is None or row["type"] == kind]
    if kind is not None and not chosen:
        raise NotFound(f"{entity}/{project} has no artifacts of type {kind!r}.")
    parts = [_type(view, one, list(rows)) for one, rows in groupby(chosen, key=lambda row: row["type"])]
    title = "Artifacts" if kind is None else f"Artifacts of type {kind}"
    none = tag("p", "No artifacts yet.", class_="none")
    return view.page(title, tabs(holder, "Artifacts"), *(parts or [none]), crumbs=project_crumbs(holder))


def _type(view: View, kind: str, rows: list[sqlite3.Row]) -> Html:
    headings = ("Collection", "Versions", "Newest", "Tags", "Description", "Changed")
    return section(f"Type {kind}", table(f"Collections of type {kind}", headings, map(_row(view), rows)))


def _row(view: View) -> Any:
    def made(row: sqlite3.Row) -> tuple[Node, ...]:
        total, newest = view.db.execute(
            "SELECT count(*), max(version_index) FROM artifact_memberships WHERE collection_id = ?",
            (row["id"],),
        ).fetchone()
        last = None if newest is None else link(urls.member(row, newest), f"{row['name']}:v{newest}")
        tags = frame.labels(collections.tags(view.db, row["id"]))
        changed = frame.moment(row["updated_ms"])
        return (link(urls.collection(row), row["name"]), total, last, tags, row["description"] or "", changed)

    return made


def of_collection(view: View, entity: str, project: str, name: str) -> str:
    """The versions of a collection, the newest first; of a portfolio with where its links come from."""
    row = collections.named(view.db, view.user, entity, project, name)
    query = "SELECT * FROM artifact_memberships WHERE collection_id = ? ORDER BY version_index DESC"
    members = view.db.execute(query, (row["id"],)).fetchall()
    skip = (view.number - 1) * frame.PER_PAGE
    linked = row["kind"] == collections.PORTFOLIO
    headings = ["Version", "Aliases", "Tags", "Size", "Files", "Created", "Logged by"]
    rows = [_version(view, row, member, linked=linked) for member in members[skip : skip + frame.PER_PAGE]]
    return view.page(
        name,
        facts(
            [
                ("Type", row["type"]),
                ("Kind", "Links to versions of other collections" if linked else "Versions of its own"),
                ("Tags", frame.labels(collections.tags(view.db, row["id"]))),
                ("Created", frame.moment(row["created_ms"])),
                ("Description", row["description"]),
            ]
        ),
        table("Versions, the newest first", [*headings, "Linked from"] if linked else headings, rows),
        frame.pager(urls.collection(row), view.number, len(members), "versions"),
        crumbs=[*above(row, entity="entity", project="project"), artifacts_crumb(row)],
    )


def artifacts_crumb(row: sqlite3.Row) -> frame.Crumb:
    """The list that a collection is in."""
    return "Artifacts", urls.path(row["entity"], row["project"], "artifacts")


def _version(view: View, row: sqlite3.Row, member: sqlite3.Row, *, linked: bool) -> list[Node]:
    one = versions.get(view.db, view.user, member["artifact_id"])
    cells: list[Node] = [
        link(urls.member(row, member["version_index"]), f"v{member['version_index']}"),
        frame.labels([alias["alias"] for alias in links.aliases(view.db, member["id"])]),
        frame.labels(versions.tags_of(view.db, one["id"])),
        frame.size(one["size"]),
        one["file_count"],
        frame.moment(one["created_ms"]),
        run_link(view, one["run_id"]),
    ]
    return [*cells, version_link(view, one)] if linked else cells
