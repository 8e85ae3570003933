"""A W&B server for the tests of this folder; one of its own for tests that do it harm."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from wandb_server import Server

sys.path.insert(0, str(Path(__file__).parent))

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench import Pod


@pytest.fixture(scope="session")
def wandb_and_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    server = Server(tmp_path_factory.mktemp("wandb") / "data").start()
    yield server, server.add_user("ada")
    server.stop()


@pytest.fixture
def wandb(wandb_and_key: tuple[Server, str]) -> Iterator[Server]:
    yield wandb_and_key[0]
    wandb_and_key[0].clear_faults()


@pytest.fixture
def pods(
    wandb: Server, wandb_and_key: tuple[Server, str], tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Pod]]:
    """Makes pods of one job, in a project of this test's own."""
    from bench import Pod

    made: list[Pod] = []
    project = request.node.name.replace("[", "-").replace("]", "")[:60]

    def make(name: str = "pod-0", node: int = 0) -> Pod:
        made.append(Pod(tmp_path / name, wandb, wandb_and_key[1], node=node, project=project))
        return made[-1]

    yield make
    for pod in made:
        pod.close()


@pytest.fixture
def pod(pods: Callable[..., Pod]) -> Pod:
    return pods()
