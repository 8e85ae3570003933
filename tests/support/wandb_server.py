"""The local W&B server as tests see it: a real process on a loopback port, and the real client against it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlenv_local.journal import children
from mlenv_local.wandb_server import running
from mlenv_local.wandb_server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PATIENCE = 300.0
"""Seconds. Nobody waits for so long unless something is wrong, or the machine is very busy."""
QUIET = {
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_CONSOLE": "off",
    "WANDB_DISABLE_GIT": "true",
    "WANDB_DISABLE_CODE": "true",
    "WANDB_X_DISABLE_STATS": "true",
    "WANDB_X_DISABLE_META": "true",
    "WANDB_X_DISABLE_MACHINE_INFO": "true",
    "WANDB_X_SAVE_REQUIREMENTS": "false",
    # Fractions are cut off: half a second would be 0, which means the default.
    "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1",
    "WANDB_X_FILE_STREAM_RETRY_WAIT_MIN_SECONDS": "1",
    "WANDB_X_FILE_STREAM_RETRY_WAIT_MAX_SECONDS": "1",
    "WANDB_X_FILE_TRANSFER_RETRY_WAIT_MIN_SECONDS": "1",
    "WANDB_X_FILE_TRANSFER_RETRY_WAIT_MAX_SECONDS": "1",
    "WANDB_X_GRAPHQL_RETRY_WAIT_MIN_SECONDS": "1",
    "WANDB_X_GRAPHQL_RETRY_WAIT_MAX_SECONDS": "1",
}
FOLDERS = ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR", "WANDB_ARTIFACT_DIR")


@dataclass
class Server:
    """A server over a data folder; survives its own `kill` and `start`, at the same port."""

    data: Path
    port: int = 0
    host: str = "127.0.0.1"
    crashed_after: float = 300.0
    public_url: str = ""
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> Server:
        """Start it, or start it again."""
        settings = Settings(
            data=self.data,
            host=self.host,
            port=self.port,
            public_url=self.public_url,
            crashed_after=self.crashed_after,
            collect_every=0.0,
        )
        self.data.mkdir(parents=True, exist_ok=True)
        (self.data / "server.json").unlink(missing_ok=True)
        argv = [sys.executable, "-m", "mlenv_local.wandb_server", *running.arguments(settings)]
        with (self.data / "server.log").open("ab") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
        wait_for(self._answers, f"the server to answer; its log: {self.data / 'server.log'}")
        self.port = int(self.url.rpartition(":")[2])
        return self

    @property
    def url(self) -> str:
        """Where it listens."""
        found = running.find(self.data)
        assert found is not None, (self.data / "server.log").read_text()
        return found.url

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """SIGSTOP: connections are made, and nobody answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on where it was."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """SIGTERM, and wait."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.kill()

    def wait_for_exit(self) -> int:
        """Wait until it has ended by itself (a fault told it to crash); returns its exit code."""
        assert self._process is not None
        return self._process.wait(PATIENCE)

    def add_user(self, name: str, *, admin: bool = False) -> str:
        """Add a user; returns the API key."""
        return str(self.admin("POST", "/admin/users", {"username": name, "admin": admin})["key"])

    def add_team(self, name: str, *members: str) -> None:
        """Add a team of existing users."""
        self.admin("POST", "/admin/teams", {"name": name, "members": list(members)})

    def fault(self, operation: str, **rule: Any) -> None:
        """Put a fault in force: status, retry_after, error, delay, drop_after, crash; after, times."""
        self.admin("POST", "/admin/faults", {"operation": operation, **rule})

    def faults(self) -> list[dict[str, Any]]:
        """The faults in force, with what is left of their counts."""
        listed: list[dict[str, Any]] = self.admin("GET", "/admin/faults")
        return listed

    def clear_faults(self) -> None:
        """Nothing goes wrong any more."""
        self.admin("DELETE", "/admin/faults")

    def collect(self) -> int:
        """Throw away what nothing refers to; how many contents."""
        return int(self.admin("POST", "/admin/collect", {})["collected"])

    def admin(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The administrator's endpoint."""
        return running.ask(self.data, method, path, body)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.data / "server.log").read_text()
        return running._answers(self.data)


@dataclass
class Client:
    """One user's real wandb client, in processes of its own, with folders of its own."""

    server: Server
    folder: Path
    key: str
    entity: str = ""

    def environment(self, **more: str) -> dict[str, str]:
        """What the client's process sees: quiet, deterministic, and only this server."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
        folders = {name: str(self.folder / name.lower()) for name in FOLDERS}
        for path in folders.values():
            os.makedirs(path, exist_ok=True)  # noqa: PTH103
        entity = {"WANDB_ENTITY": self.entity} if self.entity else {}
        return {
            **inherited,
            **QUIET,
            **folders,
            **entity,
            "WANDB_BASE_URL": f"http://127.0.0.1:{self.server.port}",
            "WANDB_API_KEY": self.key,
            "HOME": str(self.folder),
            **more,
        }

    def start(
        self, code: str, *arguments: str, stdin: bool = False, **environment: str
    ) -> subprocess.Popen[str]:
        """Start a program of the client; its standard output is a pipe, its input too if asked for."""
        return subprocess.Popen(
            [sys.executable, "-c", _PRELUDE + textwrap.dedent(code), *arguments],
            env=self.environment(**environment),
            cwd=self.folder,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, code: str, *arguments: str, **environment: str) -> Any:
        """Run a program of the client to its end; returns what it gave to `tell`, as JSON has it."""
        process = self.start(code, *arguments, **environment)
        out, err = process.communicate(timeout=2 * PATIENCE)
        assert process.returncode == 0, f"exit code {process.returncode}\n{out}\n{err}"
        told = [line.removeprefix(_TOLD) for line in out.splitlines() if line.startswith(_TOLD)]
        return json.loads(told[-1]) if told else None

    def fails(self, code: str, *arguments: str, **environment: str) -> str:
        """Run a program of the client that must fail; returns what it printed."""
        process = self.start(code, *arguments, **environment)
        out, err = process.communicate(timeout=2 * PATIENCE)
        assert process.returncode != 0, out
        return out + err


def lose(process: subprocess.Popen[str]) -> None:
    """SIGKILL a client and its wandb-core, which is in a session of its own, as a lost node would."""
    for pid in [*descendants(process.pid), process.pid]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


def descendants(pid: int) -> list[int]:
    """The children of a process, their children, and so on."""
    found = children(pid)
    return found + [one for child in found for one in descendants(child)]


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Look until the condition holds; returns what it gave."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {PATIENCE} s for {what}"
        time.sleep(0.02)
    return found


_TOLD = "told: "
_PRELUDE = f"""\
import json, os, sys
import wandb
def tell(value): print({_TOLD!r} + json.dumps(value), flush=True)
"""
