"""One server and a client for all tests of this folder; servers of their own for tests that do harm."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from wandb_server import Client, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that nobody harms; projects are told apart by name."""
    server = Server(tmp_path_factory.mktemp("wandb-server") / "data").start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def shared_key(shared: Server) -> str:
    return shared.add_user("ada")


@pytest.fixture
def client(shared: Server, shared_key: str, tmp_path: Path) -> Client:
    """User `ada` of the shared server, in processes of its own."""
    return Client(shared, tmp_path, shared_key)


@pytest.fixture
def sdk(in_process: Any) -> Iterator[Any]:
    """The real client in this process; a run that a test has left open is ended, or the next one gets it."""
    yield in_process
    if in_process.run is not None:
        in_process.run.finish()


@pytest.fixture(scope="session")
def in_process(shared: Server, shared_key: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The real client in this process, as user `ada` of the shared server: starts in no time."""
    environment = Client(shared, tmp_path_factory.mktemp("sdk"), shared_key).environment()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB")]:
            patch.delenv(name)
        for name, value in environment.items():
            if name.startswith("WANDB"):
                patch.setenv(name, value)
        import wandb

        yield wandb
        wandb.teardown()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Callable[..., tuple[Server, Client]]]:
    """Makes a server of one's own, and a client of its user `ada`."""
    made: list[Server] = []

    def make(crashed_after: float = 300.0) -> tuple[Server, Client]:
        server = Server(tmp_path / f"server-{len(made)}", crashed_after=crashed_after).start()
        made.append(server)
        return server, Client(server, tmp_path, server.add_user("ada"))

    yield make
    for server in made:
        server.stop()
