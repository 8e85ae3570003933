"""Who knows whom: makes the parts, gathers the routes, and puts the fault knobs in front of everything."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import pkgutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response

from mlenv_local.wandb_server import accounts, routes
from mlenv_local.wandb_server.artifacts import expiry
from mlenv_local.wandb_server.blobs import Blobs
from mlenv_local.wandb_server.context import THREADS, Services
from mlenv_local.wandb_server.drops import Drops
from mlenv_local.wandb_server.errors import ServerError
from mlenv_local.wandb_server.faults import Faults
from mlenv_local.wandb_server.gql import Schema
from mlenv_local.wandb_server.multipart import Multipart
from mlenv_local.wandb_server.signing import Signer, secret
from mlenv_local.wandb_server.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from mlenv_local.wandb_server.settings import Settings


def make_services(settings: Settings) -> Services:
    """The parts of a server over its data folder, which is made if need be; blocks."""
    settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    faults = Faults()
    store = Store(settings.database, faults.before_commit)
    with store.write() as db:
        accounts.ensure_organization(db, settings.organization)
    signer = Signer(secret(settings.secret).encode(), settings.url_lifetime)
    blobs = Blobs(settings, store, signer)
    return Services(
        settings=settings,
        store=store,
        signer=signer,
        blobs=blobs,
        multipart=Multipart(settings, store, blobs, signer),
        faults=faults,
        limiter=anyio.CapacityLimiter(THREADS),
        admin_token=secret(settings.admin_token),
    )


def create_app(settings: Settings) -> Starlette:
    """The server as an ASGI application; `app.state.services` are its parts."""
    services = make_services(settings)
    app = Starlette(
        routes=list(_routes()),
        exception_handlers={ServerError: _told},
        lifespan=_lifespan,
    )
    app.add_middleware(Drops)
    app.state.services = services
    app.state.schema = Schema()
    return app


def _routes() -> Iterator[BaseRoute]:
    """The most specific first: modules say with ORDER where they come, those without come first."""
    names = [module.name for module in pkgutil.iter_modules(routes.__path__, f"{routes.__name__}.")]
    modules = [importlib.import_module(name) for name in names]
    for module in sorted(modules, key=lambda module: getattr(module, "ORDER", 0)):
        yield from getattr(module, "ROUTES", ())


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    services: Services = app.state.services
    keeper = asyncio.create_task(_keep(services))
    yield
    keeper.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await keeper
    services.store.close()


async def _keep(services: Services) -> None:
    """Throw away what nobody refers to, every now and then."""
    while services.settings.collect_every:
        await asyncio.sleep(services.settings.collect_every)
        await services.blocking(services.multipart.forget_old)
        await services.blocking(expiry.tidy, services.store, services.blobs)
        await services.blocking(services.blobs.collect)


async def _told(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ServerError)
    # `errors` is where the client looks for what it tells its user.
    return JSONResponse({"error": str(error), "errors": [{"message": str(error)}]}, error.status)
