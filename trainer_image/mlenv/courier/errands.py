"""What the courier does about one action of the plan: holds files, moves bytes, marks, deletes."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from mlenv.ckpt import durable, names, seal
from mlenv.courier import failpoints, naming, pages, plan
from mlenv.courier.errors import StoreFailed
from mlenv.courier.faults import Fault, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlenv.courier.config import Config
    from mlenv.courier.remote import Store
    from mlenv.courier.spool import Spool

MAX_METRICS: Final = 40
MAX_REMARKS: Final = 20


class Errands:
    """Carries out actions. Every method may raise StoreFailed; doing one again does no harm."""

    def __init__(self, config: Config, spool: Spool, store: Store) -> None:
        self._config = config
        self._spool = spool
        self._store = store

    def do(self, action: plan.Action) -> str:
        """Do it; what was done, in words."""
        match action:
            case plan.Upload(one, parts):
                return self._upload(one, parts)
            case plan.Check(version):
                return self._check(version)
            case plan.Delete(version):
                _each(version, self._store.delete)
                return f"{version.name} (step {version.which.step}) is deleted: newer ones are stored"
            case plan.Expire(version):
                _each(version, self._store.expire)
                return f"{version.name} of attempt {version.which.attempt} expires in a week"
            case plan.Await(one, nodes):
                return f"{one.name} waits for the parts of node(s) {', '.join(map(str, nodes))}"

    def _upload(self, one: plan.Sealed, parts: tuple[tuple[int, str], ...]) -> str:
        node = self._config.node
        held = self._spool.hold(one.name)
        own = self._spool.files(one.name)
        files = [(uri, os.fspath(held / uri)) for uri in (names.SEAL, *(part.uri for part in own))]
        size = sum(part.size for part in own)
        failpoints.hit("upload")
        try:
            self._store.push(
                metadata(self._config.uid, self._spool.whole(one.name), one, node, size, parts)
                | {"metrics": _some(one.metrics, pages.metric(self._config.own))},
                files,
                naming.aliases(one.name, one.which.attempt, None if node == 0 else node),
                size,
            )
        finally:
            self._spool.release(one.name)
        failpoints.hit("committed")
        return f"{one.name} is committed ({size} bytes), and read back next"

    def _check(self, version: plan.Version) -> str:
        name = names.folder(version.which.step, version.which.attempt)
        whole = self._spool.whole(name)
        files = [(one.uri, one.size, one.hash) for one in self._spool.files(name)]
        data = seal.encode(whole)
        files.append((names.SEAL, len(data), durable.digest(data)))
        failpoints.hit("checking")
        aliases = plan.honours(version, self._store.heads()) if version.node == 0 else ()
        scratch = self._spool.work / "read-back"
        try:
            wrong = self._lost(version) or self._store.check(version, files, scratch, aliases)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)  # half a file would take room from ranks
        if wrong:
            self._store.delete(version)
            raise StoreFailed(Fault(Kind.OTHER, f"{version.name} is not what was sent: {wrong[0]}"))
        return f"{name} is stored as {version.name}: read back and verified"

    def _lost(self, version: plan.Version) -> list[str]:
        """Parts that a head names and that went before it was there: it would be no checkpoint."""
        there = {one.name for one in self._store.parts() if one.verified} if version.parts else set()
        gone = [(node, name) for node, name in version.parts if name not in there]
        return [f"the part of node {node}, {name}, is gone" for node, name in gone]


def _each(version: plan.Version, do: Callable[[plan.Version], None]) -> None:
    """A head first, then its parts: those that a kill leaves over are their own couriers' to see to."""
    do(version)
    for node, name in version.parts:
        try:
            do(replace(version, name=name, node=node, parts=()))
        except StoreFailed as error:
            if error.fault.kind not in (Kind.MISSING, Kind.OTHER):
                raise


def metadata(  # noqa: PLR0917
    uid: str, whole: seal.Seal, one: plan.Sealed, node: int, size: int, parts: tuple[tuple[int, str], ...]
) -> dict[str, Any]:
    """The head of the seal, as it stands beside the version."""
    return {
        "job": uid,
        "attempt": whole.attempt,
        "step": whole.step,
        "samples": whole.samples,
        "epoch": whole.epoch,
        "digest": one.which.digest,
        "world": whole.world.size,
        "nodes": whole.world.nodes,
        "node": node,
        "parts": {str(number): name for number, name in parts},
        "bytes": size,
        "time": whole.time,
        "good": one.good,
        "sane": not whole.insane,
        "reasons": list(whole.insane),
        "remarks": list(whole.remarks[:MAX_REMARKS]),
    }


def _some(metrics: Mapping[str, float | str], best: str) -> dict[str, float | str]:
    """As many as metadata hold; among them the one that says which checkpoint is the best."""
    ordered = sorted(metrics.items(), key=lambda one: one[0] != best.removeprefix("-"))
    return dict(ordered[:MAX_METRICS])
