"""The processes of one run: launcher and rank, courier and client, and the W&B server; each a real one."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from crowd.ports import free_port

from carrying import order as orders
from mlenv_api import names
from mlenv_local.journal import children
from mlenv_local.wandb_server import running
from mlenv_local.wandb_server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from carrying.order import Order, Told

HERE: Final = Path(__file__).parent
PATIENCE: Final = 600.0
TENTH: Final = "10"
"""A nice value: Linux gives each step of it four fifths of the step before."""
USER: Final = "ada"
PROJECT: Final = "bench"


def until(holds: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Wait for a truthy value."""
    end = time.monotonic() + seconds
    while not (found := holds()):
        if time.monotonic() > end:
            raise SystemExit(f"gave up waiting for {what}")
        time.sleep(orders.LOOK_SECONDS)
    return found


def family(pid: int) -> list[int]:
    """A process, its children, theirs, and so on; the youngest first."""
    return [*(one for child in children(pid) for one in family(child)), pid]


def plain() -> dict[str, str]:
    """This environment without what belongs to a job."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MLENV_", "WANDB"))}


class Trainer:
    """`python -m mlenv.launch program.py`, and the orders that it was given."""

    def __init__(self, home: Path) -> None:
        home.mkdir()
        self._home, self._orders = home, 0
        self._log = home / "trainer.log"
        argv = ["-m", "mlenv.launch", "--nproc-per-node", "1", "--", sys.executable]
        argv += [str(HERE / "program.py"), str(home)]
        env = {**plain(), "PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *argv], env=env, cwd=home, stdout=log, stderr=log
            )

    def begin(self, asked: Order) -> Path:
        """Have it make a turn; where it will tell how that went."""
        orders.write(self._home / orders.ORDER.format(self._orders), asked)
        self._orders += 1
        return self._home / orders.TOLD.format(self._orders - 1)

    def wait(self, path: Path) -> Told:
        """What it tells there."""
        until(lambda: self.lives() and path.exists(), "a turn of the training program")
        return orders.told(path)

    def lives(self) -> bool:
        """It is there; else this is the end."""
        if self.process.poll() is not None:
            raise SystemExit(f"the training program ended:\n{self._log.read_text()[-3000:]}")
        return True

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(PATIENCE)


class Store:
    """The server, at the lowest priority: it would not be on this machine."""

    def __init__(self, data: Path) -> None:
        data.mkdir()
        self._data = data
        settings = Settings(data=data, port=free_port())
        argv = ["nice", "-n", "19", sys.executable, "-m", "mlenv_local.wandb_server"]
        with (data / "server.log").open("wb") as log:
            self.process = subprocess.Popen([*argv, *running.arguments(settings)], stdout=log, stderr=log)
        self.url = f"http://{settings.host}:{settings.port}"
        until(lambda: running.find(data), f"the W&B server ({data / 'server.log'})")
        until(self._speaks, "the W&B server to answer")
        self.key = str(self._ask("POST", "/admin/users", {"username": USER, "admin": False})["key"])

    def _speaks(self) -> bool:
        with suppress(OSError):
            self._ask("GET", "/admin/faults")
            return True
        return False

    def fault(self, **rule: Any) -> None:
        """Of every operation."""
        self._ask("POST", "/admin/faults", {"operation": "*", **rule})

    def heal(self) -> None:
        """Nothing goes wrong any more."""
        self._ask("DELETE", "/admin/faults")

    def query(self, name: str, text: str, variables: dict[str, str]) -> Any:
        """What GraphQL says, as the user."""
        asked = {"operationName": name, "query": text, "variables": variables}
        token = base64.b64encode(f"api:{self.key}".encode()).decode()
        headers = {"Content-Type": "application/json", "Authorization": f"Basic {token}"}
        request = urllib.request.Request(f"{self.url}/graphql", json.dumps(asked).encode(), headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["data"]

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        return running.ask(self._data, method, path, body)

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(PATIENCE)


class Courier:
    """`python -m mlenv.courier` over one turn's folder, and its client; killed in the end.

    It weighs a tenth of the training, as in a pod whose trainer asks for one core: the sidecar asks for 0.1.
    """

    def __init__(self, folder: Path, uid: str, url: str, key: str) -> None:
        self.own, self.uid = folder / "courier", uid
        (folder / "tmp").mkdir()
        where = {"entity": USER, "project": PROJECT, "baseURL": url}
        env = {
            **plain(),
            "WANDB_API_KEY": key,
            "TMPDIR": str(folder / "tmp"),
            "HOME": str(folder / "tmp"),
            names.ENV_JOB_UID: uid,
            names.ENV_JOB_NAME: "bench",
            names.ENV_COURIER: str(self.own),
            names.ENV_WANDB: json.dumps(where),
        }
        with (folder / "courier.log").open("wb") as log:
            argv = ["nice", "-n", TENTH, sys.executable, "-m", "mlenv.courier"]
            self.process = subprocess.Popen(argv, env=env, stderr=log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in family(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
