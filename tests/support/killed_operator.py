"""An operator that ends itself at a chosen write: `python -m killed_operator`, told what to do by lines.

The program is the real one. A line `run` begins it; each line of JSON after that is a Trap, and is answered
by a line. The write that the trap means is the last one that happens: the process gets a signal right before
or right after it, and others like it are held back.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import orjson
import uvloop

from mlenv_operator import app
from mlenv_operator.adapters import logs
from mlenv_operator.kube.client import Client
from mlenv_operator.runtime.lease import LeadershipLostError
from mlenv_operator.settings import Settings

if TYPE_CHECKING:
    from mlenv_operator.kube.transport import Request


@dataclass(frozen=True, slots=True)
class Trap:
    """Which write is the last one."""

    moment: str
    """before or after."""
    verb: str
    resource: str
    nth: int = 1
    state: str = ""
    """Of a status: only one whose attempt stands there."""
    number: int = 0
    """Of a status: only one of this attempt."""
    origin: bool = False
    """Of a status: only one that says what its attempt runs from."""
    signal: int = signal.SIGKILL

    def line(self) -> str:
        """As `main` reads it."""
        return json.dumps(asdict(self)) + "\n"

    def means(self, request: Request) -> bool:
        """Whether this is such a write."""
        if (request.verb, request.resource) != (self.verb, self.resource):
            return False
        if not self.state:
            return True
        attempt = (orjson.loads(request.body or b"{}").get("status") or {}).get("attempt") or {}
        right = attempt.get("state") == self.state and self.number in (0, attempt.get("number"))
        return right and (not self.origin or "origin" in attempt)


class Trapped:
    """Stands before the client's writes."""

    def __init__(self) -> None:
        self.trap: Trap | None = None
        self._seen = 0
        self._write = Client._write

    def set(self, trap: Trap) -> None:
        """From now on."""
        self._seen, self.trap = 0, trap

    def listen(self) -> None:
        """Set each trap that a line describes, and say so."""
        for line in sys.stdin:
            self.set(Trap(**json.loads(line)))
            sys.stdout.write("set\n")
            sys.stdout.flush()

    async def write(self, client: Client, request: Request) -> dict[str, Any]:
        """The write, unless it is not to happen."""
        trap = self.trap
        if trap is None or not trap.means(request):
            return await self._write(client, request)
        self._seen = mine = self._seen + 1
        if mine > trap.nth:
            await asyncio.Event().wait()
        if mine == trap.nth and trap.moment == "before":
            self._spring(trap)
        answer = await self._write(client, request)
        if mine == trap.nth and trap.moment == "after":
            self._spring(trap)
        return answer

    def _spring(self, trap: Trap) -> None:
        self.trap = None
        os.kill(os.getpid(), trap.signal)


def main() -> int:
    """Wait for `run`, then be the operator."""
    trapped = Trapped()

    async def write(client: Client, request: Request) -> dict[str, Any]:
        return await trapped.write(client, request)

    Client._write = write  # type: ignore[method-assign]
    app.USER_AGENT = f"operator-{os.environ['POD_NAME']}"  # type: ignore[misc]
    sys.stdin.readline()
    threading.Thread(target=trapped.listen, daemon=True).start()
    settings = Settings.from_environment(os.environ)
    logs.configure(settings.log_level, as_json=False)
    try:
        uvloop.run(app.run(settings))
    except LeadershipLostError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
