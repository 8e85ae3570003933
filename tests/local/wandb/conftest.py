"""One server and a client for all tests of this folder; servers of their own for tests that do harm."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from wandb_artifacts import Here
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


@pytest.fixture(scope="session")
def sdk_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sdk")


@pytest.fixture(scope="module")
def environment(shared: Server, shared_key: str, sdk_folder: Path) -> Iterator[None]:
    """What the client in this process reads from its environment, and nobody else's tests."""
    variables = Client(shared, sdk_folder, shared_key).environment()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB")]:
            patch.delenv(name)
        for name in [name for name in variables if name.startswith("WANDB")]:
            patch.setenv(name, variables[name])
        yield


@pytest.fixture
def sdk(environment: None, in_process: Any) -> Iterator[Any]:
    """The real client in this process; a run that a test has left open is ended, or the next one gets it."""
    yield in_process
    if in_process.run is not None:
        in_process.run.finish()


@pytest.fixture(scope="session")
def in_process() -> Iterator[Any]:
    """The real client in this process, as user `ada` of the shared server: starts in no time."""
    import wandb

    try:
        yield wandb
    finally:
        wandb.teardown()


@pytest.fixture
def here(sdk: Any, shared: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    """Runs programs of the client in this process and in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    return Here(sdk, shared)


@dataclass
class Own:
    """A server that may be harmed, and its user `ada` in this process and in others."""

    server: Server
    client: Client
    wandb: Any

    def init(self, **arguments: Any) -> Any:
        """A run there, by the client of this process."""
        settings = self.wandb.Settings(base_url=self.server.url, api_key=self.client.key)
        return self.wandb.init(settings=settings, **arguments)

    def run(self, path: str) -> Any:
        """A run there, as the public API reads it now."""
        overrides = {"base_url": f"http://127.0.0.1:{self.server.port}"}
        return self.wandb.Api(overrides=overrides, api_key=self.client.key).run(path)


@pytest.fixture
def own(sdk: Any, tmp_path: Path) -> Iterator[Callable[..., Own]]:
    """Makes servers of one's own."""
    made: list[Server] = []

    def make(crashed_after: float = 300.0) -> Own:
        server = Server(tmp_path / f"server-{len(made)}", crashed_after=crashed_after).start()
        made.append(server)
        return Own(server, Client(server, tmp_path, server.add_user("ada")), sdk)

    with keeping_login():
        yield make
    for server in made:
        server.stop()


@contextmanager
def keeping_login() -> Iterator[None]:
    """A run with a server of its own logs the whole process in there; go back to the server before."""
    from wandb.sdk import wandb_login, wandb_setup

    settings = wandb_setup.singleton().settings
    host, key = settings.base_url, os.environ["WANDB_API_KEY"]
    yield
    settings.base_url = host
    wandb_login._login(host=host, key=key, update_api_key=False, _silent=True)
