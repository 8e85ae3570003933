"""Projects: found, made on first use, and closed to whoever is no member of their entity."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mlenv_local.wandb_server import accounts
from mlenv_local.wandb_server.clock import now_ms
from mlenv_local.wandb_server.errors import Forbidden, NotFound, Refused

if TYPE_CHECKING:
    import sqlite3

    from mlenv_local.wandb_server.accounts import User

DEFAULT = "uncategorized"
_NAME = re.compile(r"[^/\\#?%:]{1,128}")
_SELECT = (
    "SELECT projects.*, entities.name AS entity_name FROM projects JOIN entities ON entities.id = entity_id"
)


def find(db: sqlite3.Connection, user: User, name: str | None, entity: str | None) -> sqlite3.Row | None:
    """The project of that name, if it is there and the user may read it; null means the defaults."""
    owner = accounts.find_entity(db, user, entity)
    if owner is None or not accounts.may_use(db, user, owner["id"]):
        return None
    where = "WHERE projects.name = ? AND entity_id = ?"
    row: sqlite3.Row | None = db.execute(f"{_SELECT} {where}", (name or DEFAULT, owner["id"])).fetchone()
    return row


def get(db: sqlite3.Connection, user: User, name: str | None, entity: str | None) -> sqlite3.Row:
    """The project of that name; NotFound if there is none that the user may read."""
    row = find(db, user, name, entity)
    if row is None:
        where = f"{entity or user.username}/{name or DEFAULT}"
        raise NotFound(f"Project {where} is not there, or {user.username!r} may not see it.")
    return row


def ensure(
    db: sqlite3.Connection, user: User, name: str | None, entity: str | None
) -> tuple[sqlite3.Row, bool]:
    """The project of that name, made if it is not there; and whether it was made."""
    owner = accounts.entity_to_write(db, user, entity)
    found = find(db, user, name, owner["name"])
    if found is not None:
        return found, False
    wanted = name or DEFAULT
    checked_name(wanted)
    columns = "(entity_id, name, user_id, created_ms)"
    values = (owner["id"], wanted, user.id, now_ms())
    row = db.execute(f"INSERT INTO projects {columns} VALUES (?, ?, ?, ?)", values).lastrowid  # noqa: S608
    assert row is not None
    return by_id(db, user, row), True


def checked_name(name: str) -> str:
    """The name, if a project can be called so."""
    if not _NAME.fullmatch(name):
        raise Refused(f"{name!r} is no project name: 1 to 128 characters, none of / \\ # ? % :")
    return name


def by_id(db: sqlite3.Connection, user: User, project: int) -> sqlite3.Row:
    """The project of that row; NotFound or Forbidden otherwise."""
    row: sqlite3.Row | None = db.execute(f"{_SELECT} WHERE projects.id = ?", (project,)).fetchone()
    if row is None:
        raise NotFound(f"There is no project {project} on this server.")
    if not accounts.may_use(db, user, row["entity_id"]):
        raise Forbidden(f"User {user.username!r} may not see that project: permission denied.")
    return row


def of_entity(db: sqlite3.Connection, user: User, entity: str | None) -> list[sqlite3.Row]:
    """All projects of an entity, the newest first; none if the user may not see them."""
    owner = accounts.find_entity(db, user, entity)
    if owner is None or not accounts.may_use(db, user, owner["id"]):
        return []
    order = "ORDER BY projects.created_ms DESC, projects.id DESC"
    return db.execute(f"{_SELECT} WHERE entity_id = ? {order}", (owner["id"],)).fetchall()


def update(db: sqlite3.Connection, project: int, description: str | None, access: str | None) -> None:
    """Change what was given."""
    db.execute(
        "UPDATE projects SET description = coalesce(?, description), access = coalesce(?, access)"
        " WHERE id = ?",
        (description, access, project),
    )
