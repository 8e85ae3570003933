"""What was written to the API server, from its audit log: the only witness that is not the writer itself."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mlenv_local import platform
from mlenv_local.errors import LocalError
from mlenv_local.shell import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OPERATOR = f"system:serviceaccount:{platform.NAMESPACE}:mlenv-operator"
CHANGES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclass(frozen=True, slots=True)
class Write:
    """One request that was meant to change something, whatever came of it."""

    time: datetime
    user: str
    agent: str
    verb: str
    resource: str
    namespace: str
    name: str
    code: int

    def __str__(self) -> str:
        return f"{self.time:%H:%M:%S} {self.verb} {self.resource} {self.namespace}/{self.name} {self.code}"

    def concerns(self, namespace: str, job: str) -> bool:
        """Whether it is about the job, its status, pods, Service or Events."""
        return self.namespace == namespace and re.match(rf"{job}([-.]|$)", self.name) is not None


class AuditLog:
    """The log from here on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size

    def writes(self, *, user: str = OPERATOR) -> list[Write]:
        """Everything that this account has written since."""
        return [one for one in self.all_writes() if one.user == user]

    def all_writes(self) -> Iterator[Write]:
        """The same of everybody."""
        return (one for one in self._all() if one.verb in CHANGES)

    def wait_for(self, time: datetime, *, seconds: float) -> None:
        """Until the log speaks of this moment: Leases are renewed all the time."""
        if not wait_until(lambda: self._last() >= time, seconds=seconds, interval=1):
            raise LocalError(f"The audit log {self._path} has not come to {time} within {seconds:.0f} s.")

    def _last(self) -> datetime:
        return max((one.time for one in self._all()), default=datetime.min.replace(tzinfo=UTC))

    def _all(self) -> Iterator[Write]:
        with self._path.open("rb") as log:
            log.seek(self._offset)
            for line in log:
                if line.endswith(b"\n"):  # the last one may be on its way
                    yield _write(json.loads(line))


def _write(raw: dict[str, Any]) -> Write:
    ref = raw.get("objectRef") or {}
    subresource = f"/{ref['subresource']}" if ref.get("subresource") else ""
    return Write(
        time=datetime.fromisoformat(raw["stageTimestamp"]),
        user=raw["user"]["username"],
        agent=raw.get("userAgent", ""),
        verb=raw["verb"],
        resource=f"{ref.get('resource', '')}{subresource}",
        namespace=ref.get("namespace", ""),
        name=ref.get("name", ""),
        code=int((raw.get("responseStatus") or {}).get("code", 0)),
    )
