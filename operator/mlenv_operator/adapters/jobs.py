"""The jobs as last seen, by kopf, by a GET, or in the answer to a write of ours: whichever is newest."""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter, OrderedDict
from sys import intern
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from mlenv_api import gitcode, names
from mlenv_operator.core.project import parse_job
from mlenv_operator.core.world import JobKey, JobView

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Raw = dict[str, Any]
PARSED: Final = 1024
"""Parsed jobs that are kept, 18 KB each. All are kept as compressed JSON, most in less than 1 KB."""
READ: Final = (names.ANNOTATION_CHECKPOINT, names.ANNOTATION_USER, *gitcode.ANNOTATIONS)
"""The annotations of jobs that mean something to the operator."""
MOST_CHARACTERS: Final = 253
"""So much of each is kept."""


class _Entry(NamedTuple):
    uid: str
    version: int
    phase: str
    body: bytes


class JobCache:
    """The newest known state of every job. A view never goes back in time."""

    def __init__(self, keep: Sequence[str] = ()) -> None:
        """`keep`: labels that a job's charges keep."""
        self._keep = tuple(keep)
        self._entries: dict[JobKey, _Entry] = {}
        self._parsed: OrderedDict[JobKey, JobView] = OrderedDict()
        self._waiters: dict[JobKey, list[asyncio.Future[None]]] = {}

    def put(self, raw: Raw) -> bool:
        """Keep this state unless a newer one of the same job is known; whether it was news."""
        metadata = raw["metadata"]
        key = JobKey(intern(metadata["namespace"]), metadata["name"])
        # Comparable since Kubernetes 1.35 (KEP-5504), and in practice ever since etcd 3.
        entry = _Entry(
            metadata["uid"],
            int(metadata["resourceVersion"]),
            intern((raw.get("status") or {}).get("phase") or "New"),
            zlib.compress(orjson.dumps(_slim(raw)), 1),
        )
        known = self._entries.get(key)
        if known is not None and known.uid == entry.uid and known.version >= entry.version:
            return False
        self._entries[key] = entry
        self._changed(key)
        return True

    def drop(self, key: JobKey, uid: str) -> bool:
        """Forget the job with this uid; whether it was known."""
        known = self._entries.get(key)
        if known is None or known.uid != uid:
            return False
        del self._entries[key]
        self._changed(key)
        return True

    def get(self, key: JobKey) -> JobView | None:
        """The job, parsed."""
        view = self._parsed.get(key)
        if view is not None:
            self._parsed.move_to_end(key)
            return view
        entry = self._entries.get(key)
        if entry is None:
            return None
        view = self._parsed[key] = parse_job(orjson.loads(zlib.decompress(entry.body)), self._keep)
        if len(self._parsed) > PARSED:
            self._parsed.popitem(last=False)
        return view

    def version(self, key: JobKey) -> tuple[str, int] | None:
        """Uid and resourceVersion of the job as known."""
        entry = self._entries.get(key)
        return None if entry is None else (entry.uid, entry.version)

    def uids(self) -> list[str]:
        """Of every known job."""
        return [entry.uid for entry in self._entries.values()]

    def phases(self) -> Counter[str]:
        """How many jobs there are in each phase."""
        return Counter(entry.phase for entry in self._entries.values())

    def keys(self) -> list[JobKey]:
        """Every known job."""
        return list(self._entries)

    def views(self) -> Iterator[JobView]:
        """Every known job, parsed."""
        for key in self.keys():
            if (view := self.get(key)) is not None:
                yield view

    def __len__(self) -> int:
        """How many jobs are known."""
        return len(self._entries)

    async def wait_change(self, key: JobKey, timeout_s: float) -> bool:
        """Wait until the state of the job changes; False when that took too long."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(key, []).append(waiter)
        try:
            await asyncio.wait_for(waiter, timeout_s)
        except TimeoutError:
            return False
        finally:
            self._unwait(key, waiter)
        return True

    def _unwait(self, key: JobKey, waiter: asyncio.Future[None]) -> None:
        waiters = self._waiters.get(key, [])
        if waiter in waiters:
            waiters.remove(waiter)
        if not waiters:
            self._waiters.pop(key, None)

    def _changed(self, key: JobKey) -> None:
        self._parsed.pop(key, None)
        for waiter in self._waiters.pop(key, []):
            if not waiter.done():
                waiter.set_result(None)


def _slim(raw: Raw) -> Raw:
    """Without managedFields and annotations, which can be most of a body; those that are read stay."""
    metadata = {k: v for k, v in raw["metadata"].items() if k not in ("managedFields", "annotations")}
    said = raw["metadata"].get("annotations") or {}
    kept = {name: said[name][:MOST_CHARACTERS] for name in READ if said.get(name) is not None}
    if kept:
        metadata["annotations"] = kept
    return {**raw, "metadata": metadata}
