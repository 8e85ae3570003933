"""The server as a process: in the foreground, or in the background with its number in the data folder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import signal
import socket
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import uvicorn

from mlenv_local.errors import LocalError
from mlenv_local.journal import ProcessId, identify, is_alive
from mlenv_local.processes import signal_and_wait, tail
from mlenv_local.shell import wait_until
from mlenv_local.wandb_server.app import create_app

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlenv_local.wandb_server.settings import Settings

START_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Running:
    """A server that has been started over a data folder, and where it listens."""

    process: ProcessId
    url: str


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; the data folder belongs to this process meanwhile."""
    settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    with _alone(settings.data), _listening(settings) as listener:
        app = create_app(settings)
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            access_log=False,
            log_config=None,
            timeout_graceful_shutdown=5,
            server_header=False,
        )
        app.state.server = uvicorn.Server(config)
        host, port = listener.getsockname()[:2]
        _announce(settings.data, Running(_self(), f"http://{host}:{port}"))
        app.state.server.run(sockets=[listener])


def start(settings: Settings) -> Running:
    """Start in the background unless it runs; return when it answers."""
    if (running := find(settings.data)) is not None:
        return running
    settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    log = settings.data / "server.log"
    (settings.data / "server.json").unlink(missing_ok=True)
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "mlenv_local.wandb_server", *arguments(settings)],
        dict(os.environ),
        setsid=True,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
    )
    wait_until(lambda: _answers(settings.data) or _ended(pid), seconds=START_SECONDS, interval=0.02)
    started = find(settings.data)
    if started is None or not _answers(settings.data):
        lines = "".join(f"\n  | {line}" for line in tail(log, 12))
        raise LocalError(f"The W&B server did not start; its log is {log} and ends with:{lines}")
    return started


def stop(data: Path) -> bool:
    """End the server of that data folder; whether there was one."""
    running = find(data)
    if running is None:
        return False
    signal_and_wait([running.process], signal.SIGTERM)
    return True


def find(data: Path) -> Running | None:
    """The server of that data folder, if it is alive."""
    try:
        raw = json.loads((data / "server.json").read_text())
    except FileNotFoundError:
        return None
    running = Running(ProcessId(**raw["process"]), raw["url"])
    return running if is_alive(running.process) else None


def require(data: Path) -> Running:
    """The server of that data folder; LocalError if it is not alive."""
    running = find(data)
    if running is None:
        raise LocalError(f"No W&B server runs over {data}: start it with `mlenv local wandb up`.")
    return running


def ask(data: Path, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Use the administrator's endpoint of the running server."""
    running = require(data)
    request = urllib.request.Request(  # noqa: S310  (our own http URL)
        f"{running.url}{path}",
        data=None if body is None else json.dumps(body).encode(),
        method=method,
        headers={"Authorization": f"Bearer {(data / 'admin.token').read_text().strip()}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise LocalError(json.load(error)["error"]) from error


def arguments(settings: Settings) -> list[str]:
    """The command line that means these settings."""
    return [
        f"--data={settings.data}",
        f"--host={settings.host}",
        f"--port={settings.port}",
        f"--public-url={settings.public_url}",
        f"--crashed-after={settings.crashed_after}",
        f"--collect-every={settings.collect_every}",
    ]


def _self() -> ProcessId:
    process = identify(os.getpid())
    assert process is not None
    return process


def _announce(data: Path, running: Running) -> None:
    process = running.process
    raw = {"pid": process.pid, "start": process.start, "boot": process.boot}
    draft = data / "server.json.draft"
    draft.write_text(json.dumps({"process": raw, "url": running.url}))
    draft.replace(data / "server.json")


def _answers(data: Path) -> bool:
    running = find(data)
    if running is None:
        return False
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{running.url}/healthz", timeout=5):  # noqa: S310
        return True
    return False


def _ended(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    return True


@contextlib.contextmanager
def _alone(data: Path) -> Iterator[None]:
    """One server per data folder: two would each believe to be the only writer."""
    with (data / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LocalError(f"Another W&B server uses {data}: stop it, or give another folder.") from error
        yield


@contextlib.contextmanager
def _listening(settings: Settings) -> Iterator[socket.socket]:
    try:
        listener = socket.create_server((settings.host, settings.port))
    except OSError as error:
        problem = f"{settings.host}:{settings.port} cannot be listened on ({error.strerror})"
        raise LocalError(f"{problem}: give another --port, or 0 for any.") from error
    with listener:
        yield listener
