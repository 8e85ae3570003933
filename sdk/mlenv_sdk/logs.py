"""What a pod wrote, also across the pods that replace it."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import quote

from mlenv_api.names import TRAINER_CONTAINER
from mlenv_sdk.errors import NotFound, NotReady, Rejected, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from mlenv_sdk.resources import Pod
    from mlenv_sdk.transport import Transport

POLL_SECONDS = 0.5


class PodLogs:
    """The logs of one slot of a gang; ``newest`` finds the pod that holds it now, or raises NotFound."""

    def __init__(self, transport: Transport, namespace: str, newest: Callable[[], Pod]) -> None:
        self._transport = transport
        self._namespace = namespace
        self._newest = newest

    def read(self, tail: int | None) -> Generator[str, None, None]:
        """Lines so far."""
        yield from self._lines(self._newest(), tail, follow=False)

    def follow(
        self, tail: int | None, finished: Callable[[], bool], sleep: Callable[[float], object]
    ) -> Generator[str, None, None]:
        """Lines as they come, of this pod and of those that replace it, until the job has finished."""
        seen = ""
        while True:
            last = finished()  # asked before the log is read: nothing is written after it
            try:
                pod = self._newest()
                if pod.name != seen:
                    yield from self._lines(pod, tail, follow=True)
                    seen, tail = pod.name, None
                    continue
            except (NotFound, NotReady):
                pass  # not there yet, or not any more
            if last:
                return
            sleep(POLL_SECONDS)

    def _lines(self, pod: Pod, tail: int | None, *, follow: bool) -> Generator[str, None, None]:
        path = f"/api/v1/namespaces/{quote(self._namespace)}/pods/{quote(pod.name)}/log"
        query = {"container": TRAINER_CONTAINER, "follow": str(follow).lower()}
        if tail is not None:
            query["tailLines"] = str(tail)
        what = f'the log of the pod "{pod.name}"'
        try:
            with closing(self._transport.lines(path, what=what, query=query, read_seconds=None)) as lines:
                yield from lines
        except Rejected as error:  # 400: the container waits to start
            raise NotReady(
                f'The pod "{pod.name}" has no log yet: it is {pod.phase}. {pod.message}'.strip()
            ) from error
        except Unreachable:
            if not follow:
                raise
