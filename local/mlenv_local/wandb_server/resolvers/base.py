"""Viewer, users, teams, API keys and what the server says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ariadne import InterfaceType, MutationType, ObjectType, QueryType, ScalarType

from mlenv_local.wandb_server import accounts, ids
from mlenv_local.wandb_server.clock import iso
from mlenv_local.wandb_server.errors import Forbidden, NotFound, Refused
from mlenv_local.wandb_server.pages import connection

if TYPE_CHECKING:
    import sqlite3

    from mlenv_local.wandb_server.context import Context, Info, Raw

query = QueryType()
mutation = MutationType()
user_type = ObjectType("User")
entity_type = ObjectType("Entity")
organization_type = ObjectType("Organization")
node = InterfaceType("Node")
scalars = [ScalarType(name) for name in ("JSONString", "JSON", "DateTime", "Int64", "Duration")]
for scalar in scalars:
    scalar.set_serializer(lambda value: value)

SERVED_FEATURES: set[str] = set()
"""Names of the features that this server has beyond the oldest clients' needs; modules add theirs."""


def entity_view(row: sqlite3.Row) -> Raw:
    """A row of `entities` as the schema's Entity."""
    return {
        "row": row["id"],
        "id": ids.make("Entity", row["id"]),
        "name": row["name"],
        "available": False,
        "readOnly": False,
        "readOnlyAdmin": False,
        "isTeam": row["kind"] == "team",
        "entityType": row["kind"],
        "privateOnly": True,
        "storageBytes": 0,
        "codeSavingEnabled": True,
        "defaultAccess": "PRIVATE",
        "isPaid": True,
        "limits": "{}",
        "xxhashDigestsEnabled": False,
    }


def user_view(row: sqlite3.Row) -> Raw:
    """A row of `users` as the schema's User; its entity has the user's name."""
    return {
        "row": row["id"],
        "id": ids.make("User", row["id"]),
        "name": row["name"],
        "username": row["username"],
        "email": row["email"],
        "admin": bool(row["admin"]),
        "flags": "{}",
        "entity": row["username"],
        "accountType": "MEMBER",
    }


@node.type_resolver
def resolve_node_type(value: Any, *_: Any) -> str | None:
    """Which type a Node is: what its id says."""
    return ids.kind(value["id"]) if isinstance(value, dict) else None


@query.field("viewer")
def resolve_viewer(_: None, info: Info) -> Raw | None:
    """Who asks."""
    context: Context = info.context
    return _user(context, "id", context.user.id)


@query.field("users")
def resolve_users(_: None, info: Info, query: str | None = None) -> Raw:
    """Users whose name or e-mail address is, or contains, that."""
    sql = "SELECT * FROM users WHERE instr(username, ?1) OR instr(email, ?1) ORDER BY username"
    with info.context.services.store.read() as db:
        return connection([user_view(row) for row in db.execute(sql, (query or "",))])


@query.field("entity")
def resolve_entity(_: None, info: Info, name: str | None = None) -> Raw | None:
    """A user or team by name, one's own without a name."""
    with info.context.services.store.read() as db:
        row = accounts.find_entity(db, info.context.user, name)
        return entity_view(row) if row else None


@query.field("organization")
def resolve_organization(_: None, info: Info, name: str) -> Raw | None:
    """The one organisation, if that is its name."""
    return next((one for one in _organizations(info.context) if one["name"] == name), None)


@query.field("serverInfo")
def resolve_server_info(*_: Any) -> Raw:
    """Which client versions fit, and which features are there."""
    features = [{"name": name, "isEnabled": True} for name in sorted(SERVED_FEATURES)]
    return {
        "features": features,
        "cliVersionInfo": {"min_cli_version": "0.0.1", "max_cli_version": "999.0.0"},
    }


@user_type.field("apiKeys")
def resolve_api_keys(user: Raw, info: Info) -> Raw:
    """The user's keys, as hints: the keys themselves are not stored. Nobody sees another's."""
    if user["row"] != info.context.user.id:
        return connection([])
    with info.context.services.store.read() as db:
        rows = db.execute("SELECT * FROM api_keys WHERE user_id = ? ORDER BY id", (user["row"],))
        return connection([_key_view(row["id"], row["hint"], row["description"]) for row in rows])


@user_type.field("teams")
def resolve_teams(user: Raw, info: Info, **_page: Any) -> Raw:
    """The teams that the user is a member of."""
    sql = (
        "SELECT entities.* FROM members JOIN entities ON entities.id = entity_id"
        " WHERE user_id = ? AND kind != 'organization' ORDER BY name"
    )
    with info.context.services.store.read() as db:
        return connection([entity_view(row) for row in db.execute(sql, (user["row"],))])


@user_type.field("organizations")
def resolve_user_organizations(_: Raw, info: Info) -> list[Raw]:
    """Everybody is in the one organisation."""
    return _organizations(info.context)


@entity_type.field("organization")
def resolve_entity_organization(_: Raw, info: Info) -> Raw:
    """Every entity belongs to the one organisation."""
    return _organizations(info.context)[0]


@entity_type.field("user")
def resolve_entity_user(entity: Raw, info: Info) -> Raw | None:
    """Whose own entity this is; None for a team."""
    return _user(info.context, "entity_id", entity["row"])


@entity_type.field("members")
def resolve_members(entity: Raw, info: Info) -> list[Raw]:
    """Who is in the team."""
    sql = (
        "SELECT users.*, members.admin AS leads FROM members JOIN users ON users.id = user_id"
        " WHERE members.entity_id = ? ORDER BY username"
    )
    with info.context.services.store.read() as db:
        rows = db.execute(sql, (entity["row"],)).fetchall()
    return [{**user_view(row), "admin": bool(row["leads"]), "pending": False} for row in rows]


@organization_type.field("orgEntity")
def resolve_org_entity(organization: Raw, info: Info) -> Raw:
    """The entity that owns the organisation's registries."""
    with info.context.services.store.read() as db:
        row = db.execute("SELECT * FROM entities WHERE id = ?", (organization["entity_row"],)).fetchone()
        return entity_view(row)


@organization_type.field("featureFlags")
def resolve_feature_flags(*_: Any, **__: Any) -> list[Raw]:
    """None are set."""
    return []


@mutation.field("createTeam")
def create_team(_: None, info: Info, input: Raw) -> Raw:
    """Add a team that the caller, or the named user, administers."""
    context: Context = info.context
    admin = input.get("teamAdminUserName") or context.user.username
    if admin != context.user.username and not context.user.admin:
        raise Forbidden("Only an administrator may make a team of which somebody else is the administrator.")
    with context.services.store.write() as db:
        row = accounts.add_team(db, input["teamName"], [admin])
        return {"entity": entity_view(_by_id(db, row))}


@mutation.field("createUser")
def create_user(_: None, info: Info, input: Raw) -> Raw:
    """Add a user named like the first part of the e-mail address; administrators only."""
    context: Context = info.context
    if not context.user.admin:
        raise Forbidden("Only an administrator may add a user.")
    username = input["email"].partition("@")[0]
    with context.services.store.write() as db:
        accounts.add_user(db, username, email=input["email"], admin=bool(input.get("admin")))
    return {"user": _user(context, "username", username)}


@mutation.field("createInvite")
def create_invite(_: None, info: Info, input: Raw) -> Raw:
    """Make an existing user a member of a team, at once: nobody has to accept."""
    context: Context = info.context
    found = _invited(context, input)
    with context.services.store.write() as db:
        entity = accounts.entity_to_write(db, context.user, input["entityName"])
        accounts.add_member(db, entity["id"], found["username"], admin=bool(input.get("admin")))
    key = f"{entity['id']}/{found['row']}"
    return {
        "invite": {
            "id": ids.make("Invite", key),
            "name": found["name"],
            "email": found["email"],
            "createdAt": iso(entity["created_ms"]),
            "toUser": found,
        }
    }


@mutation.field("generateApiKey")
def generate_api_key(_: None, info: Info, input: Raw) -> Raw:
    """Give the caller one more key, shown this once."""
    context: Context = info.context
    description = input.get("description") or ""
    with context.services.store.write() as db:
        row, key = accounts.add_key(db, context.user.id, description)
    return {"apiKey": _key_view(row, key, description)}


@mutation.field("deleteApiKey")
def delete_api_key(_: None, info: Info, input: Raw) -> Raw:
    """Take one of the caller's keys back."""
    context: Context = info.context
    row = ids.parse_int("ApiKey", input["id"])
    with context.services.store.write() as db:
        sql = "DELETE FROM api_keys WHERE id = ? AND user_id = ?"
        return {"success": db.execute(sql, (row, context.user.id)).rowcount == 1}


def _key_view(row: int, name: str, description: str) -> Raw:
    return {"id": ids.make("ApiKey", row), "name": name, "description": description}


def _user(context: Context, column: str, value: int | str) -> Raw | None:
    with context.services.store.read() as db:
        row = db.execute(f"SELECT * FROM users WHERE {column} = ?", (value,)).fetchone()  # noqa: S608
        return user_view(row) if row else None


def _invited(context: Context, asked: Raw) -> Raw:
    if not (asked.get("username") or asked.get("email")):
        raise Refused("An invitation needs a username or an e-mail address.")
    column = "username" if asked.get("username") else "email"
    found = _user(context, column, asked[column])
    if found is None:
        raise NotFound(f"There is no user with the {column} {asked[column]!r}: add the user first.")
    return found


def _by_id(db: sqlite3.Connection, entity: int) -> sqlite3.Row:
    row: sqlite3.Row = db.execute("SELECT * FROM entities WHERE id = ?", (entity,)).fetchone()
    return row


def _organizations(context: Context) -> list[Raw]:
    with context.services.store.read() as db:
        rows = db.execute("SELECT * FROM organizations ORDER BY id").fetchall()
    return [
        {"id": ids.make("Organization", row["id"]), "name": row["name"], "entity_row": row["entity_id"]}
        for row in rows
    ]


BINDABLES = [query, mutation, user_type, entity_type, organization_type, node, *scalars]
