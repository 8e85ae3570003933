"""Every change of a collection, with the moment at which it was seen."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlenv_sdk.errors import MlenvError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlenv_sdk.transport import Transport

Raw = dict[str, Any]
WATCH_SECONDS = 1800


@dataclass(frozen=True)
class Seen:
    """One change."""

    time: float
    """When the watch brought it, by the wall clock."""
    type: str
    """ADDED, MODIFIED or DELETED."""
    object: Raw

    @property
    def name(self) -> str:
        """The object's name."""
        return str(self.object["metadata"]["name"])

    @property
    def uid(self) -> str:
        """The object's UID."""
        return str(self.object["metadata"]["uid"])

    @property
    def status(self) -> Raw:
        """The object's status."""
        return self.object.get("status") or {}


class Watch:
    """Follows one collection in a thread, for as long as the program lives."""

    def __init__(self, transport: Transport, path: str) -> None:
        self._transport, self._path = transport, path
        self._seen: list[Seen] = []
        self._broken = ""
        self._news = threading.Condition()
        threading.Thread(target=self._follow, name=f"watch {path}", daemon=True).start()

    def since(self, when: float) -> list[Seen]:
        """What was seen after that moment."""
        with self._news:
            return [one for one in self._seen if one.time > when]

    def wait(self, holds: Callable[[list[Seen]], Any], what: str, seconds: float) -> Any:
        """Whatever is true of all that was seen, once it is; gives up with a sentence."""
        deadline = time.monotonic() + seconds
        with self._news:
            while not (found := holds(self._seen)):
                left = deadline - time.monotonic()
                if left <= 0 or self._broken:
                    raise SystemExit(f"gave up waiting for {what} {self._broken}".rstrip())
                self._news.wait(left)
            return found

    def _follow(self) -> None:
        try:
            version = self._transport.call("GET", self._path, what=self._path)["metadata"]["resourceVersion"]
            query = {"watch": "true", "resourceVersion": version, "timeoutSeconds": str(WATCH_SECONDS)}
            for line in self._transport.lines(self._path, what=self._path, query=query, read_seconds=None):
                event = json.loads(line)
                with self._news:
                    self._seen.append(Seen(time.time(), event["type"], event["object"]))
                    self._news.notify_all()
            reason = f"it ended after {WATCH_SECONDS} s"
        except MlenvError as error:
            reason = str(error)
        # A watch that had a gap would have made up times: it is better to stop.
        with self._news:
            self._broken = f"(the watch of {self._path} broke: {reason})"
            self._news.notify_all()
