"""Pages of entities and projects: what there is, and a project's runs with their most telling values."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from mlenv_local.wandb_server import accounts, projects, runs
from mlenv_local.wandb_server.errors import NotFound
from mlenv_local.wandb_server.web import charts, frame, urls
from mlenv_local.wandb_server.web.markup import Html, Node, link, section, table, tag
from mlenv_local.wandb_server.web.viewing import above, parsed

if TYPE_CHECKING:
    import sqlite3

    from mlenv_local.wandb_server.web.viewing import View

COLUMNS = 4
"""Summary values in a list of runs."""
_KINDS = {"user": "User", "team": "Team", "organization": "Registry of"}


def home(view: View) -> str:
    """All projects of the user's entities: the user's own, the teams', and the registries."""
    query = (
        "SELECT entities.* FROM members JOIN entities ON entities.id = entity_id WHERE user_id = ?"
        " ORDER BY entities.id != ?, kind DESC, name"
    )
    entities = view.db.execute(query, (view.user.id, view.user.entity_id)).fetchall()
    return frame.page("Projects", *(_entity(view, one) for one in entities), user=view.user.username)


def of_entity(view: View, entity: str) -> str:
    """The projects of one user, team or organisation."""
    row = accounts.find_entity(view.db, view.user, entity)
    if row is None or not accounts.may_use(view.db, view.user, row["id"]):
        raise NotFound(f"{entity} is not there, or you may not see it.")
    return view.page(entity, _entity(view, row), crumbs=[])


def _entity(view: View, row: sqlite3.Row) -> Html:
    listed, registry = projects.of_entity(view.db, view.user, row["name"]), row["kind"] == "organization"
    rows = [
        (
            link(urls.project(one) + ("/artifacts" if registry else ""), one["name"]),
            runs.count(view.db, one["id"]),
            link(
                f"{urls.project(one)}/artifacts", frame.counted(_collections(view, one["id"]), "collection")
            ),
            frame.moment(one["created_ms"]),
        )
        for one in listed
    ]
    heading = f"{_KINDS[row['kind']]} {row['name']}"
    return section(
        heading, table(f"Projects of {row['name']}", ("Project", "Runs", "Artifacts", "Created"), rows)
    )


def _collections(view: View, project: int) -> int:
    query = "SELECT count(*) FROM artifact_collections WHERE project_id = ? AND state = 'READY'"
    return int(view.db.execute(query, (project,)).fetchone()[0])


def tabs(project: sqlite3.Row, here: str) -> Html:
    """From a project's runs to its artifacts and back."""
    base = urls.project(project)
    pages = (("Runs", base), ("Artifacts", f"{base}/artifacts"))
    links = [link(path, name, aria_current="page" if name == here else None) for name, path in pages]
    return tag("nav", *links, class_="tabs", aria_label="Of this project")


def project_runs(view: View, entity: str, project: str) -> str:
    """A page of a project's runs, the newest first."""
    row = projects.get(view.db, view.user, project, entity)
    total = runs.count(view.db, row["id"])
    skip = (view.number - 1) * frame.PER_PAGE
    found = runs.newest(view.db, row["id"], frame.PER_PAGE, skip)
    summaries = [parsed(row["summary"]) for row in found]
    keys = telling(summaries)
    rows = [(*_run(view, run), *_values(one, keys)) for run, one in zip(found, summaries, strict=True)]
    headings = ("Run", "State", "Group", "Started", "Duration", "Last step", *keys)
    return view.page(
        project,
        tag("p", row["description"]) if row["description"] else None,
        tabs(row, "Runs"),
        table("Runs, the newest first", headings, rows),
        frame.pager(urls.project(row), view.number, total, "runs"),
        crumbs=[(entity, urls.path(entity))],
    )


def telling(summaries: list[dict[str, Any]]) -> list[str]:
    """The keys under which most runs have a number; those of the client itself apart."""
    counted = Counter(
        key
        for summary in summaries
        for key, value in summary.items()
        if not key.startswith("_") and charts.number(value) is not None
    )
    return sorted(sorted(counted), key=lambda key: -counted[key])[:COLUMNS]


def _run(view: View, row: sqlite3.Row) -> tuple[Node, ...]:
    name = row["display_name"] or row["name"]
    return (
        link(urls.run(row), name),
        frame.state(runs.state(row, view.crashed_after)),
        row["run_group"] or "",
        frame.moment(row["created_ms"]),
        frame.duration(row["heartbeat_ms"] - row["created_ms"]),
        last_step(view, row["id"]),
    )


def last_step(view: View, run: int) -> int | None:
    """The last step that a run has logged; None before the first."""
    query = "SELECT max(step) FROM run_lines WHERE run_id = ? AND stream = 'history'"
    found: int | None = view.db.execute(query, (run,)).fetchone()[0]
    return found


def _values(summary: dict[str, Any], keys: list[str]) -> list[Node]:
    numbers = [charts.number(summary.get(key)) for key in keys]
    return ["" if one is None else charts.short(one) for one in numbers]


def project_crumbs(project: sqlite3.Row) -> list[frame.Crumb]:
    """The way to something in a project."""
    return above(project, project="name")
