"""Who looks, with what: what every page is made from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlenv_local.wandb_server import accounts, runs
from mlenv_local.wandb_server.artifacts import collections
from mlenv_local.wandb_server.errors import Forbidden, NotFound
from mlenv_local.wandb_server.web import frame, urls
from mlenv_local.wandb_server.web.markup import Html, Node, link, tag

if TYPE_CHECKING:
    import sqlite3

    from mlenv_local.wandb_server.accounts import User
    from mlenv_local.wandb_server.blobs import Blobs


@dataclass(frozen=True, slots=True)
class View:
    """One look at the database by one user, who has asked for the page of that number (from 1)."""

    db: sqlite3.Connection
    user: User
    blobs: Blobs
    crashed_after: float
    number: int = 1
    everything: bool = False
    """Whether all charts are wanted, however many."""

    def file(self, sha256: str, name: str) -> Html:
        """A signed link to a content."""
        return link(self.blobs.download_url("", sha256, name), name)

    def page(self, title: str, *body: Node, crumbs: list[frame.Crumb]) -> str:
        """A document for this user."""
        return frame.page(title, *body, crumbs=[("Projects", "/"), *crumbs], user=self.user.username)


def above(row: Any, *, entity: str = "entity_name", project: str = "project_name") -> list[frame.Crumb]:
    """The entity and the project of a row."""
    names = row[entity], row[project]
    return [(names[0], urls.path(names[0])), (names[1], urls.path(*names))]


def run_link(view: View, run: int | None) -> Node:
    """A link to a run, for those who may see it; None if there is no run."""
    if run is None:
        return None
    try:
        row = runs.by_id(view.db, view.user, run)
    except NotFound:
        return None
    except Forbidden:
        return "a run that you may not see"
    return link(urls.run(row), f"{row['project_name']} / {row['display_name'] or row['name']}")


def version_link(view: View, row: sqlite3.Row) -> Node:
    """A link to a version wherever the user may see it, or words."""
    if row["state"] == "DELETED" and accounts.may_use(view.db, view.user, row["entity_id"]):
        return f"{_name(row)} (deleted)"
    if accounts.may_use(view.db, view.user, row["entity_id"]):
        return link(urls.version(row), _name(row))
    for member in memberships(view, row["id"]):
        return member_link(view, member)
    return "a version that you may not see"


def _name(row: sqlite3.Row) -> str:
    return f"{row['project']} / {row['sequence']}:v{row['version_index']}"


def memberships(view: View, artifact: int) -> list[sqlite3.Row]:
    """Where a version is a member, in collections that the user may see."""
    query = "SELECT * FROM artifact_memberships WHERE artifact_id = ? ORDER BY id"
    rows = view.db.execute(query, (artifact,)).fetchall()
    return [row for row in rows if collection_of(view, row) is not None]


def collection_of(view: View, member: sqlite3.Row) -> sqlite3.Row | None:
    """The collection of a membership, if the user may see it."""
    try:
        return collections.by_id(view.db, view.user, member["collection_id"])
    except NotFound:
        return None


def member_link(view: View, member: sqlite3.Row) -> Node:
    """A link to a version in a collection that is not its own."""
    row = collection_of(view, member)
    if row is None:
        return None
    href, index = urls.member(row, member["version_index"]), member["version_index"]
    return link(href, f"{row['entity']} / {row['project']} / {row['name']}:v{index}")


def parsed(text: str | None) -> dict[str, Any]:
    """A stored JSON object."""
    found = json.loads(text or "{}")
    return found if isinstance(found, dict) else {}


def listing(nodes: list[Node], empty: str) -> Html:
    """A list of links, or a sentence."""
    shown = [node for node in nodes if node is not None]
    if not shown:
        return tag("p", empty, class_="none")
    return tag("ul", *(tag("li", node) for node in shown))
