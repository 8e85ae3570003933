"""What counters showed last, in a ConfigMap: no restoration of the ledger, or of its volume, touches it."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import TimeoutError as Late
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, TypeVar

from mlenv_operator.kube.errors import AlreadyExists, ApiError, Conflict, LeaseLost, NotFound
from mlenv_operator.kube.resources import CONFIG_MAPS
from mlenv_operator.ledger.errors import LedgerError, MarksUnavailable
from mlenv_operator.ledger.exports import Mark

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from mlenv_operator.kube.client import Client

T = TypeVar("T")
KEY: Final = "shown"
WITHIN_S: Final = 10.0


class ConfigMapMarks:
    """Asked by the ledger's thread, answered by the event loop in which it was made."""

    def __init__(self, client: Client, namespace: str, name: str) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._loop = asyncio.get_running_loop()

    def read(self) -> Mark | None:
        """The last mark; None when there never was one."""
        found = self._ask(self._read())
        if found is None:
            return None
        try:
            return Mark(**json.loads((found.get("data") or {})[KEY]))
        except (KeyError, ValueError, TypeError) as error:
            raise LedgerError(
                f"The mark of exported counters in ConfigMap {self._namespace}/{self._name} cannot be read:"
                f" {error!r}. Put back what stood there, or delete it and reset the counters."
            ) from error

    def write(self, mark: Mark) -> None:
        """Keep it, durably when this returns."""
        self._ask(self._write({KEY: json.dumps(asdict(mark), sort_keys=True)}))

    def _ask(self, question: Coroutine[Any, Any, T]) -> T:
        asked = asyncio.run_coroutine_threadsafe(question, self._loop)
        try:
            return asked.result(WITHIN_S)
        except (ApiError, Conflict, LeaseLost, Late) as error:
            asked.cancel()
            raise MarksUnavailable(
                f"What counters show is not renewed, as it cannot be noted in ConfigMap"
                f" {self._namespace}/{self._name}: {str(error) or 'no answer'}. It is tried again."
            ) from error

    async def _read(self) -> dict[str, Any] | None:
        try:
            return await self._client.get(CONFIG_MAPS, self._namespace, self._name)
        except NotFound:
            return None

    async def _write(self, data: dict[str, str]) -> None:
        try:
            await self._client.merge_patch(CONFIG_MAPS, self._namespace, self._name, {"data": data})
        except NotFound:
            metadata = {"namespace": self._namespace, "name": self._name}
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
            try:
                await self._client.create(CONFIG_MAPS, body)
            except AlreadyExists:
                await self._client.merge_patch(CONFIG_MAPS, self._namespace, self._name, {"data": data})
