"""`mlenv local wandb`: up, down, users, teams, and state that stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from mlenv_local.wandb_server.cli import app

if TYPE_CHECKING:
    from pathlib import Path


def call(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def test_a_server_comes_up_with_a_user_and_keeps_what_it_knows(data: Path) -> None:
    where = f"--data={data}"
    assert "No W&B server runs" in call("status", where, code=1)
    try:
        first = call("up", where, "--port=0")
        assert "export WANDB_BASE_URL=http://127.0.0.1:" in first
        assert "export WANDB_API_KEY=" in first
        assert "WANDB_API_KEY" not in call("up", where, "--port=0"), "it runs already"
        assert str(data) in call("status", where)
        assert "WANDB_API_KEY" in call("user", "ada", where)
        assert "already" in call("user", "ada", where, code=1)
        call("team", "rankers", "ada", "local", where)
        assert "Stopped" in call("down", where)
        assert "No W&B server runs" in call("user", "bob", where, code=1)
        assert "WANDB_API_KEY" not in call("up", where, "--port=0"), "its user is known"
        assert "already" in call("user", "ada", where, code=1)
        assert "WANDB_API_KEY" in call("key", "ada", where)
        assert "no user" in call("key", "nobody", where, code=1)
    finally:
        call("down", where)
    assert (data / "server.sqlite").stat().st_size > 0
    assert data.stat().st_mode & 0o077 == 0, "keys and contents are the owner's alone"


def test_one_folder_has_one_server(data: Path) -> None:
    from mlenv_local.errors import LocalError
    from mlenv_local.wandb_server import running
    from mlenv_local.wandb_server.settings import Settings

    settings = Settings(data=data, port=0)
    started = running.start(settings)
    try:
        (data / "server.json").rename(data / "hidden")
        with pytest.raises(LocalError, match="Another W&B server uses"):
            running.start(settings)
        (data / "hidden").rename(data / "server.json")
        taken = Settings(data=data.with_name("other"), port=int(started.url.rpartition(":")[2]))
        with pytest.raises(LocalError, match="cannot be listened on"):
            running.start(taken)
    finally:
        running.stop(data)
