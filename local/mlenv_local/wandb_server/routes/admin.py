"""The administrator's endpoint: fault knobs, users, teams, and a collection of garbage now."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mlenv_local.wandb_server import accounts
from mlenv_local.wandb_server.artifacts import expiry
from mlenv_local.wandb_server.errors import NotFound, Unauthenticated
from mlenv_local.wandb_server.faults import rule_of

if TYPE_CHECKING:
    from starlette.requests import Request

    from mlenv_local.wandb_server.context import Services


def _admin(request: Request) -> Services:
    services: Services = request.app.state.services
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if not hmac.compare_digest(given.encode(), services.admin_token.encode()):
        raise Unauthenticated(f"The administrator's token is in {services.settings.admin_token}.")
    return services


async def faults(request: Request) -> Response:
    """GET lists the rules in force, POST adds one, DELETE clears all."""
    services = _admin(request)
    if request.method == "POST":
        services.faults.add(rule_of(await request.json()))
    if request.method == "DELETE":
        services.faults.clear()
    return JSONResponse(services.faults.listed())


async def users(request: Request) -> Response:
    """GET lists names; POST {username, admin?, email?, key?} adds a user; the answer has the API key."""
    services = _admin(request)
    if request.method == "GET":
        return JSONResponse(await services.blocking(_usernames, services))
    body = await request.json()
    key = await services.blocking(_add_user, services, body)
    return JSONResponse({"username": body["username"], "key": key})


async def keys(request: Request) -> Response:
    """POST {username} gives an existing user one more API key."""
    services = _admin(request)
    body = await request.json()
    return JSONResponse({"key": await services.blocking(_add_key, services, body["username"])})


async def teams(request: Request) -> Response:
    """POST {name, members} adds a team of existing users."""
    services = _admin(request)
    body = await request.json()
    await services.blocking(_add_team, services, body)
    return JSONResponse({"name": body["name"]})


async def collect(request: Request) -> Response:
    """POST deletes contents that nothing refers to; the answer says how many."""
    services = _admin(request)
    await services.blocking(expiry.tidy, services.store, services.blobs)
    return JSONResponse({"collected": await services.blocking(services.blobs.collect)})


async def healthy(_request: Request) -> Response:
    """Whether the server answers: for whoever starts it."""
    return JSONResponse({"ok": True, "server": "mlenv-wandb"})


def _usernames(services: Services) -> list[str]:
    with services.store.read() as db:
        return [row["username"] for row in db.execute("SELECT username FROM users ORDER BY username")]


def _add_key(services: Services, username: str) -> str:
    with services.store.write() as db:
        row = db.execute("SELECT id FROM users WHERE username = ?", (username,)).fetchone()
        if row is None:
            raise NotFound(f"There is no user {username!r}: add it first.")
        return accounts.add_key(db, row["id"], "from the command line")[1]


def _add_user(services: Services, body: dict[str, Any]) -> str:
    with services.store.write() as db:
        return accounts.add_user(
            db,
            body["username"],
            email=body.get("email", ""),
            admin=bool(body.get("admin")),
            key=body.get("key"),
        )


def _add_team(services: Services, body: dict[str, Any]) -> None:
    with services.store.write() as db:
        accounts.add_team(db, body["name"], body["members"])


ROUTES = [
    Route("/admin/faults", faults, methods=["GET", "POST", "DELETE"]),
    Route("/admin/users", users, methods=["GET", "POST"]),
    Route("/admin/keys", keys, methods=["POST"]),
    Route("/admin/teams", teams, methods=["POST"]),
    Route("/admin/collect", collect, methods=["POST"]),
    Route("/healthz", healthy, methods=["GET"]),
]
