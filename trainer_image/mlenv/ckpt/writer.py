"""Writes one snapshot: files first, the seal last, and the name for good after that.

Every step is taken by all ranks together. When one fails, all stop there, the ``.tmp`` folder is removed and
training goes on; when processes die, what is left is called ``.tmp`` and the next writer clears it.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch.distributed.tensor import DTensor

from mlenv.ckpt import boxes, checksum, dcp, durable, failpoints, names, plain, seal, settle
from mlenv.ckpt.place import Place, assign

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from mlenv.ckpt.group import Group
    from mlenv.ckpt.things import State


@dataclass(frozen=True, slots=True)
class Work:
    """One snapshot on this rank, and what its seal will say besides tensors and files."""

    head: seal.Seal
    """Without tensors, parts and node seals."""
    copies: dict[str, torch.Tensor]
    """Host copies: own shards, own part of what all have alike, and all that may differ between ranks."""
    alike: frozenset[str]
    models: frozenset[str]
    trees: dict[str, Any]
    rng: Any


@dataclass(slots=True)
class Written:
    """What one rank reports of what it wrote."""

    parts: list[seal.Part] = field(default_factory=list)
    tensors: list[settle.Share] = field(default_factory=list)
    metadata: bytes = b""


def wanted(state: State, place: Place) -> dict[str, torch.Tensor]:
    """The tensors of which this rank needs a copy: not those that another rank writes for it."""
    alike = {n: h.tensor for n, h in state.tensors.items() if h.alike and not isinstance(h.tensor, DTensor)}
    own = set(_assigned(alike, place))
    return {n: held.tensor for n, held in state.tensors.items() if n not in alike or n in own}


def _assigned(tensors: dict[str, torch.Tensor], place: Place) -> list[str]:
    """Names of those that this rank writes, of what all ranks have alike."""
    if place.copy is None:
        return []
    writers = place.writers(place.copy)
    sizes = {name: one.numel() * one.element_size() for name, one in tensors.items()}
    return [n for n, writer in assign(sizes, len(writers)).items() if writers[writer] == place.rank]


class Save:
    """One checkpoint on its way to the disk."""

    def __init__(self, place: Place, every: Group, team: Group, work: Work) -> None:
        self._place = place
        self._every = every
        """All ranks."""
        self._team = team
        """The ranks that write the same copy of what all have alike."""
        self._work = work
        self._tmp = place.tmp(work.head.step, work.head.attempt)
        self._final = place.path(work.head.step, work.head.attempt)

    def run(self) -> seal.Seal:
        """Write it; the seal. Raises CheckpointError on all ranks, and then nothing is left of it."""
        try:
            return self._run()
        except BaseException:
            self._undo()
            raise

    def _run(self) -> seal.Seal:
        self._every.together("making the folder", self._prepare)
        agreed = settle.settle(self._every.together("comparing ranks", self._digests))
        private = self._every.together("gathering what differs by rank", lambda: self._private(agreed))
        replica, shards = self._sets(agreed)
        if self._any(replica):
            self._every.together("writing", lambda: self._save_replica(replica))
        if self._any(shards):
            self._every.together("writing shards", lambda: self._save_shards(shards))
        self._every.together("writing the state", lambda: self._write_state(agreed, private))
        reports = self._every.together("hashing", lambda: self._report(replica, shards))
        node_seals = self._every.together("sealing nodes", lambda: self._seal_node(reports))
        whole = self._every.together("sealing", lambda: self._head(reports, node_seals))[0]
        self._every.together("writing the seal", lambda: self._write_head(whole))
        self._every.together("naming the folder", self._rename)
        failpoints.hit("sealed", self._place.rank)
        return whole

    # -- before anything is written

    def _prepare(self) -> None:
        if self._place.leads:
            clear(self._place.folder, self._work.head.attempt)
            self._tmp.mkdir()

    def _digests(self) -> settle.Digests:
        """Of everything that could differ between ranks."""
        failpoints.hit("compare", self._place.rank)
        work = self._work
        loose = {
            name: settle.Fingerprint(str(one.dtype), tuple(one.shape), checksum.of(one))
            for name, one in work.copies.items()
            if name not in work.alike and not isinstance(one, DTensor)
        }
        trees = {
            name: hashlib.sha256(plain.dumps(tree).encode()).hexdigest() for name, tree in work.trees.items()
        }
        return settle.Digests(loose, trees)

    def _private(self, agreed: settle.Agreed) -> dict[str, Any]:
        """What only this rank has: its generators, and what is not as on the others."""
        own = {n: one for n, one in self._work.copies.items() if n in agreed.different}
        settle.check_size(own)
        return {
            "rng": self._work.rng,
            "tensors": {name: plain.encode_tensor(one) for name, one in own.items()},
            "trees": {name: tree for name, tree in self._work.trees.items() if name not in agreed.trees},
        }

    def _sets(self, agreed: settle.Agreed) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """What this rank writes: of what all have alike, and of shards."""
        copies = self._work.copies
        loose = set(_assigned({name: copies[name] for name in agreed.tensors}, self._place))
        replica = {n: one for n, one in copies.items() if n in self._work.alike or n in loose}
        return replica, {n: one for n, one in copies.items() if isinstance(one, DTensor)}

    def _any(self, tensors: dict[str, torch.Tensor]) -> bool:
        """Whether any rank has one: a set without tensors is not written."""
        return any(self._every.gather(bool(tensors)))

    # -- the files

    def _save_replica(self, tensors: dict[str, torch.Tensor]) -> None:
        copy = self._place.copy
        if copy is not None:
            dcp.save(tensors, self._tmp / names.replica(copy), self._team, self._place.rank)

    def _save_shards(self, tensors: dict[str, torch.Tensor]) -> None:
        dcp.save(tensors, self._tmp / names.SHARDS, self._every, self._place.rank)

    def _write_state(self, agreed: settle.Agreed, private: list[dict[str, Any]]) -> None:
        if self._place.leads:
            common = {name: tree for name, tree in self._work.trees.items() if name in agreed.trees}
            text = plain.dumps({"common": common, "ranks": private})
            durable.write(self._tmp / names.STATE, text.encode())

    def _report(self, replica: dict[str, torch.Tensor], shards: dict[str, torch.Tensor]) -> Written:
        place = self._place
        written = Written()
        written.tensors = [self._share(name, one) for name, one in {**replica, **shards}.items()]
        copy = place.copy
        if copy is not None:
            own = place.writers(copy).index(place.rank)
            written.parts += self._parts(names.replica(copy), own, "replica", leader=own == 0)
        written.parts += self._parts(names.SHARDS, place.rank, "state", leader=False)
        if place.rank == 0:
            written.parts += self._common()
            metadata = self._tmp / names.SHARDS / names.METADATA
            written.metadata = metadata.read_bytes() if metadata.exists() else b""
        return written

    def _share(self, name: str, tensor: torch.Tensor) -> settle.Share:
        copy = -1 if isinstance(tensor, DTensor) else self._place.copy or 0
        dtype = str(tensor.dtype).removeprefix("torch.")
        return settle.Share(
            name, tuple(tensor.shape), dtype, copy, boxes.share(tensor), name in self._work.models
        )

    def _parts(self, folder: str, own: int, kind: seal.Kind, *, leader: bool) -> list[seal.Part]:
        """The files that this rank wrote into a set."""
        where = self._tmp / folder
        listed = sorted(where.glob(f"__{own}_*.distcp")) if where.is_dir() else []
        listed += [where / names.METADATA] if leader and where.is_dir() else []
        node = self._place.node if self._place.per_node else None
        return [self._part(path, kind, node) for path in listed]

    def _common(self) -> list[seal.Part]:
        """The files that every folder has."""
        found = [self._part(self._tmp / names.STATE, "data", None)]
        metadata = self._tmp / names.SHARDS / names.METADATA
        return found + ([self._part(metadata, "state", None)] if metadata.exists() else [])

    def _part(self, path: Path, kind: seal.Kind, node: int | None) -> seal.Part:
        size, found = durable.hash_file(path)
        uri = path.relative_to(self._tmp).as_posix()
        return seal.Part(uri=uri, size=size, hash=found, algorithm="sha256", kind=kind, node=node)

    # -- the seal

    def _seal_node(self, reports: list[Written]) -> str:
        """Write this node's list of its files, where it has a folder of its own; the list's digest."""
        place, head = self._place, self._work.head
        if not (place.per_node and place.leads):
            return ""
        metadata = self._tmp / names.SHARDS / names.METADATA
        if reports[0].metadata and not metadata.exists():
            metadata.parent.mkdir(exist_ok=True)
            durable.write(metadata, reports[0].metadata)
        own = [p for report in reports for p in report.parts if p.node in (place.node, None)]
        part = seal.NodePart(
            job=head.job, attempt=head.attempt, step=head.step, node=place.node, parts=tuple(own)
        )
        durable.write(self._tmp / names.PART, seal.encode(part))
        return seal.digest(part)

    def _head(self, reports: list[Written], node_seals: list[str]) -> seal.Seal:
        failpoints.hit("seal", self._place.rank)
        shares = [share for report in reports for share in report.tensors]
        seals = {str(node): node_seals[rank] for node, rank in enumerate(self._place.leaders)}
        return self._work.head.model_copy(
            update={
                "tensors": settle.tensors(shares),
                "parts": tuple(sorted((p for r in reports for p in r.parts), key=lambda p: p.uri)),
                "node_seals": seals if self._place.per_node else {},
            }
        )

    def _write_head(self, whole: seal.Seal) -> None:
        if self._place.leads:
            durable.write(self._tmp / names.SEAL, seal.encode(whole))
            durable.sync_tree(self._tmp)
            failpoints.hit("rename", self._place.rank)

    def _rename(self) -> None:
        if self._place.leads:
            durable.rename(self._tmp, self._final)

    def _undo(self) -> None:
        """Leave nothing of it. Other ranks may be gone, so this asks nobody.

        A folder that has its name stays: it is whole, and other nodes may count on it.
        """
        if self._place.leads:
            shutil.rmtree(self._tmp, ignore_errors=True)


def clear(folder: Path, attempt: int) -> int:
    """Delete what saves and deletions left that were cut off; how many there were."""
    found = [path for path in folder.iterdir() if names.is_litter(path.name, attempt)]
    for path in found:
        shutil.rmtree(path)
    return len(found)
