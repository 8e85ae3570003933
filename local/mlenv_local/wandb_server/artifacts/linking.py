"""Links: versions in portfolios, in a project or in the organisation's registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlenv_local.wandb_server import ids
from mlenv_local.wandb_server.artifacts import collections, links, naming, registries
from mlenv_local.wandb_server.errors import Refused

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from mlenv_local.wandb_server.accounts import User


def portfolio(
    db: sqlite3.Connection, user: User, artifact: sqlite3.Row, asked: dict[str, Any]
) -> sqlite3.Row:
    """The portfolio that was asked for by id or path, made if it is not there."""
    if asked.get("artifactPortfolioID"):
        row = ids.parse_int("ArtifactPortfolio", asked["artifactPortfolioID"])
        return collections.by_id(db, user, row, collections.PORTFOLIO)
    name = asked.get("artifactPortfolioName")
    if not name or not asked.get("projectName"):
        raise Refused("A link needs the id or the path of its collection.")
    project = collections.project(db, user, asked.get("entityName"), asked["projectName"])
    _accepted(db, project, artifact["type"])
    return collections.ensure(db, project["id"], collections.PORTFOLIO, artifact["type"], name)


def _accepted(db: sqlite3.Connection, project: sqlite3.Row, kind: str) -> None:
    """Refused if the project is a registry that takes other types only."""
    if registries.takes_all(db, project["id"]):
        return
    query = "SELECT name FROM artifact_types WHERE project_id = ? ORDER BY name"
    taken = [one["name"] for one in db.execute(query, (project["id"],))]
    if kind not in taken:
        raise Refused(
            f"The registry {project['name']} takes artifacts of type {', '.join(taken)}, not {kind!r}."
        )


def link(
    db: sqlite3.Connection, artifact: sqlite3.Row, collection: sqlite3.Row, aliases: Iterable[str]
) -> sqlite3.Row:
    """Make a committed version a member; the newest link is the latest. Linking again only moves aliases."""
    if artifact["state"] != "COMMITTED":
        raise Refused(
            f"{artifact['sequence']} is {artifact['state'].lower()}: only a committed version can be linked."
        )
    if artifact["type"] != collection["type"]:
        raise Refused(
            f"The collection {collection['name']!r} is of type {collection['type']!r}, and the artifact of"
            f" type {artifact['type']!r}."
        )
    member = links.join(db, collection["id"], artifact["id"])
    links.set_aliases(db, member, [*aliases, naming.LATEST])
    return member
