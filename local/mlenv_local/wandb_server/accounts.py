"""Users, teams, API keys and who may do what, over one connection each."""

from __future__ import annotations

import hashlib
import re
import secrets
import sqlite3
from dataclasses import dataclass

from mlenv_local.wandb_server.clock import now_ms
from mlenv_local.wandb_server.errors import Conflict, Forbidden, NotFound, Refused, Unauthenticated

NAME = re.compile(r"[A-Za-z0-9][-_A-Za-z0-9]{0,63}")
MIN_KEY = 40


@dataclass(frozen=True, slots=True)
class User:
    """Who makes a request."""

    id: int
    username: str
    name: str
    email: str
    admin: bool
    entity_id: int


def add_user(
    db: sqlite3.Connection, username: str, *, email: str = "", admin: bool = False, key: str | None = None
) -> str:
    """Add a user with an entity of the same name and an API key, which is returned and never shown again."""
    entity = _add_entity(db, username, "user")
    columns = "(username, name, email, admin, entity_id, created_ms)"
    values = (username, username, email or f"{username}@localhost", int(admin), entity, now_ms())
    user = db.execute(f"INSERT INTO users {columns} VALUES (?, ?, ?, ?, ?, ?)", values).lastrowid  # noqa: S608
    assert user is not None
    _join(db, entity, user, admin=True)
    for row in db.execute("SELECT entity_id FROM organizations").fetchall():
        _join(db, row["entity_id"], user, admin=admin)
    return add_key(db, user, "first key", key)[1]


def add_key(db: sqlite3.Connection, user: int, description: str, key: str | None = None) -> tuple[int, str]:
    """Give a user one more API key; returns its row and the key."""
    key = key or secrets.token_hex(20)
    if len(key.rpartition("-")[2]) < MIN_KEY:
        raise Refused(f"An API key has at least {MIN_KEY} characters, or the client refuses it.")
    columns = "(user_id, hash, hint, description, created_ms)"
    values = (user, hash_key(key), f"{key[:4]}…", description, now_ms())
    row = db.execute(f"INSERT INTO api_keys {columns} VALUES (?, ?, ?, ?, ?)", values).lastrowid  # noqa: S608
    assert row is not None
    return row, key


def add_team(db: sqlite3.Connection, name: str, members: list[str]) -> int:
    """Add a team of existing users, the first of whom administers it."""
    entity = _add_entity(db, name, "team")
    for position, username in enumerate(members):
        add_member(db, entity, username, admin=position == 0)
    return entity


def add_member(db: sqlite3.Connection, entity: int, username: str, *, admin: bool = False) -> None:
    """Let a user read and write what a team owns."""
    row = db.execute("SELECT id FROM users WHERE username = ?", (username,)).fetchone()
    if row is None:
        raise NotFound(f"There is no user {username!r}: add it first.")
    _join(db, entity, row["id"], admin=admin)


def ensure_organization(db: sqlite3.Connection, name: str) -> None:
    """One organisation holds everybody; its entity owns the registries."""
    if db.execute("SELECT 1 FROM organizations").fetchone() is None:
        entity = _add_entity(db, f"{name}-org", "organization")
        db.execute("INSERT INTO organizations (name, entity_id) VALUES (?, ?)", (name, entity))


def authenticate(db: sqlite3.Connection, key: str) -> User:
    """Whose API key that is."""
    query = "SELECT users.* FROM api_keys JOIN users ON users.id = user_id WHERE hash = ?"
    row = db.execute(query, (hash_key(key),)).fetchone()
    if row is None:
        raise Unauthenticated("The API key is not one of this server's.")
    return user_of(row)


def user_of(row: sqlite3.Row) -> User:
    """A row of `users`."""
    return User(
        id=row["id"],
        username=row["username"],
        name=row["name"],
        email=row["email"],
        admin=bool(row["admin"]),
        entity_id=row["entity_id"],
    )


def hash_key(key: str) -> str:
    """What is stored of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def find_entity(db: sqlite3.Connection, user: User, name: str | None) -> sqlite3.Row | None:
    """The entity of that name, the user's own if there is no name; None if it is not there."""
    own = "SELECT * FROM entities WHERE id = ?"
    named = "SELECT * FROM entities WHERE name = ?"
    found = db.execute(named, (name,)) if name else db.execute(own, (user.entity_id,))
    row: sqlite3.Row | None = found.fetchone()
    return row


def may_use(db: sqlite3.Connection, user: User, entity_id: int) -> bool:
    """Whether the user may read and write what the entity owns: members may, and administrators."""
    query = "SELECT 1 FROM members WHERE entity_id = ? AND user_id = ?"
    return user.admin or db.execute(query, (entity_id, user.id)).fetchone() is not None


def entity_to_write(db: sqlite3.Connection, user: User, name: str | None) -> sqlite3.Row:
    """The entity of that name for writing; says what is wrong otherwise."""
    row = find_entity(db, user, name)
    if row is None:
        raise NotFound(f"There is no user or team {name!r} on this server.")
    if not may_use(db, user, row["id"]):
        raise Forbidden(f"User {user.username!r} is no member of {row['name']!r}: permission denied.")
    return row


def _add_entity(db: sqlite3.Connection, name: str, kind: str) -> int:
    if not NAME.fullmatch(name):
        raise Refused(f"{name!r} is no name: letters, digits, - and _, at most 64.")
    try:
        row = db.execute(
            "INSERT INTO entities (name, kind, created_ms) VALUES (?, ?, ?)", (name, kind, now_ms())
        ).lastrowid
    except sqlite3.IntegrityError as error:
        raise Conflict(f"There is a user or team {name!r} already.") from error
    assert row is not None
    return row


def _join(db: sqlite3.Connection, entity: int, user: int, *, admin: bool) -> None:
    db.execute(
        "INSERT INTO members VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET admin = ?3",
        (entity, user, int(admin)),
    )
