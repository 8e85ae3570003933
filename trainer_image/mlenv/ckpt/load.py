"""Puts a verified checkpoint into living models, optimizers and everything else, and checks what arrived."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from mlenv.ckpt import boxes, checksum, dcp, durable, failpoints, names, plain, rng, things, verify
from mlenv.ckpt.errors import Incompatible, NotVerified, TogetherFailed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch.distributed.checkpoint.metadata import Metadata

    from mlenv.ckpt.seal import Seal, Tensor

SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Sets:
    """Where tensors can be read: the folder and verified metadata of each set."""

    found: tuple[tuple[Path, Metadata], ...]

    def read(self, targets: Mapping[str, torch.Tensor]) -> None:
        """Fill all `targets`. Raises Incompatible when one is nowhere."""
        left = dict(targets)
        for folder, metadata in self.found:
            here = {name: left.pop(name) for name in list(left) if name in metadata.state_dict_metadata}
            if here:
                _read(here, folder, metadata)
        if left:
            raise Incompatible(f"the checkpoint has no {min(left)} (and {len(left) - 1} more)")


class Loader:
    """One checkpoint, about to be put into `living`; asks no other rank for anything."""

    def __init__(
        self,
        folder: Path,
        whole: Seal,
        living: Mapping[str, Any],
        *,
        copy: int,
        rank: int,
        world: int,
        ignored: frozenset[str] | None = frozenset(),
    ) -> None:
        self._seal = whole
        self._living = living
        self._rank = rank
        self._ignored = ignored
        """Things of the checkpoint that are not wanted; None: all that are not given."""
        self.same_world = whole.world.size == world
        """Whether what single ranks had can be given back to them."""
        self._sealed = {one.name: one for one in whole.tensors}
        self._state = _state(folder, whole)
        self._sets = Sets(
            tuple(
                found
                for name in (names.replica(copy), names.SHARDS)
                if (found := _set(folder / name, name, whole)) is not None
            )
        )
        self._targets: dict[str, torch.Tensor] = {}
        self._names = things.Names(living)

    def run(self) -> None:
        """Fill everything. Raises CheckpointError; then what was living may be half filled."""
        failpoints.hit("load", self._rank)
        state = things.collect(self._living)
        self._compatible(state)
        private = self._private()["tensors"]
        rebuilt = {name: self._rebuild(name, thing, state) for name, thing in self._living.items()}
        own = {name: target for name, target in self._targets.items() if name in private}
        self._sets.read({name: one for name, one in self._targets.items() if name not in own})
        for name, target in own.items():
            target.copy_(plain.decode(private[name], _nothing))
        for name, value in rebuilt.items():
            _give(self._living[name], value)

    def generators(self, seed: int) -> None:
        """Last of all, the random generators: as they were, or as the seed says in another world."""
        if self.same_world:
            rng.restore(self._state["ranks"][self._rank]["rng"])
        else:
            rng.start(seed, self._seal.step, self._rank)

    def shares(self) -> dict[str, int]:
        """This rank's summands of the checksums of what is living now."""
        state = things.collect(self._living)
        return {
            name: boxes.share(held.tensor) for name, held in state.tensors.items() if name in self._sealed
        }

    def sharded(self) -> frozenset[str]:
        """Names whose summands must be added over ranks."""
        state = things.collect(self._living)
        return frozenset(name for name, held in state.tensors.items() if isinstance(held.tensor, DTensor))

    # -- what fits

    def _compatible(self, state: things.State) -> None:
        known = {*self._state["common"], *self._private()["trees"]}
        given = {name for name, thing in self._living.items() if name in state.trees}
        known -= known - given if self._ignored is None else self._ignored
        words = [f"{name}: in the checkpoint, not given now" for name in sorted(known - given)]
        words += [f"{name}: given now, not in the checkpoint" for name in sorted(given - known)]
        present = {
            name: (tuple(held.tensor.shape), str(held.tensor.dtype).removeprefix("torch."))
            for name, held in state.tensors.items()
            if held.model and name not in self._private()["tensors"]
        }
        words = words or verify.diff(self._seal.tensors, present)
        if words:
            more = f"; and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
            raise Incompatible("; ".join(words[:SHOWN]) + more)

    def _private(self) -> dict[str, Any]:
        """What this rank had for itself; in another world, what the first had."""
        found: dict[str, Any] = self._state["ranks"][self._rank if self.same_world else 0]
        return found

    def _tree(self, name: str) -> Any:
        trees = self._private()["trees"]
        return trees[name] if name in trees else self._state["common"].get(name)

    # -- where it goes

    def _rebuild(self, name: str, thing: Any, state: things.State) -> Any:
        """The state to hand to `thing`, with memory that is filled before that happens."""
        if isinstance(thing, nn.Module):
            return self._model(name, thing)
        if isinstance(thing, torch.optim.Optimizer):
            return self._optimizer(name, thing)
        if name not in state.trees:
            return None
        return plain.decode(self._tree(name), lambda path: self._target(path, state.tensors.get(path)))

    def _model(self, name: str, model: nn.Module) -> dict[str, Any]:
        """Its own memory: what is read goes right into it."""
        full: dict[str, Any] = {}
        for key, value in model.state_dict().items():
            short = things.canonical(model, key)
            if isinstance(value, torch.Tensor):
                full[key] = self._targets[f"{name}.{short}"] = value.detach()
            else:
                full[key] = plain.decode(self._tree(name)[short], lambda path: self._target(path, None))
        return full

    def _optimizer(self, name: str, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        tree = self._tree(name)
        own = things.parameters(optimizer)
        number = {self._names.of(one, f"parameter-{i}"): i for i, one in enumerate(own)}
        groups = plain.decode(tree["groups"], lambda path: self._target(path, None))
        _same_groups(name, groups, optimizer.param_groups, number)
        state = {}
        for called, entries in tree["state"].items():
            like = own[number[called]]
            give = partial(self._like, parameter=like)
            state[number[called]] = {key: plain.decode(value, give) for key, value in entries.items()}
        return {
            "state": state,
            "param_groups": [{**one, "params": [number[n] for n in one["params"]]} for one in groups],
        }

    def _target(self, path: str, known: things.Held | None) -> torch.Tensor:
        """Memory for a tensor that is neither a model's nor an optimizer's."""
        if known is not None and self._fits(path, known.tensor):
            memory = known.tensor if isinstance(known.tensor, DTensor) else torch.empty_like(known.tensor)
        else:
            memory = self._empty(path, torch.device("cpu"))
        self._targets[path] = memory
        return memory

    def _like(self, path: str, parameter: torch.Tensor) -> torch.Tensor:
        """Memory for what an optimizer keeps of `parameter`: cut into shards as that is."""
        if isinstance(parameter, DTensor) and self._shape(path) == tuple(parameter.shape):
            memory: torch.Tensor = torch.empty_like(parameter, dtype=self._dtype(path), requires_grad=False)
        else:
            device = parameter.device if self._shape(path) else torch.device("cpu")
            memory = self._empty(path, device)
        self._targets[path] = memory
        return memory

    def _fits(self, path: str, known: torch.Tensor) -> bool:
        return (self._shape(path), self._dtype(path)) == (tuple(known.shape), known.dtype)

    def _empty(self, path: str, device: torch.device) -> torch.Tensor:
        return torch.empty(self._shape(path), dtype=self._dtype(path), device=device)

    def _about(self, path: str) -> Tensor | torch.Tensor:
        if path in self._sealed:
            return self._sealed[path]
        small = self._private()["tensors"].get(path)
        if small is None:
            raise Incompatible(f"the checkpoint has no {path}")
        found: torch.Tensor = plain.decode(small, _nothing)
        return found

    def _shape(self, path: str) -> tuple[int, ...]:
        return tuple(self._about(path).shape)

    def _dtype(self, path: str) -> torch.dtype:
        dtype = self._about(path).dtype
        return dtype if isinstance(dtype, torch.dtype) else plain.dtype(dtype)


def _read(here: dict[str, torch.Tensor], folder: Path, metadata: Metadata) -> None:
    try:
        dcp.load(here, folder, metadata)
    except TogetherFailed as error:
        raise NotVerified(f"{folder.name} is as it was sealed, and cannot be read: {error}") from None


def compare(whole: Seal, shares: list[dict[str, int]], sharded: frozenset[str]) -> list[str]:
    """What did not arrive as it was sealed, in words. Pure."""
    words = []
    for one in whole.tensors:
        sums = [share[one.name] for share in shares if one.name in share]
        found = [sum(sums) % checksum.MODULUS] if sums and one.name in sharded else sums
        if not sums:
            words.append(f"{one.name} is gone after it was loaded")
        wrong = [rank for rank, value in enumerate(found) if checksum.text(value) != one.checksum]
        if wrong:
            where = "" if one.name in sharded else f" on rank {', '.join(map(str, wrong))}"
            words.append(f"{one.name} is not what was sealed after it was loaded{where}")
    return words


def _nothing(path: str) -> Any:
    raise Incompatible(f"{path} stands where no tensor may be")


def _give(thing: Any, value: Any) -> None:
    if value is None:
        return
    thing.load_state_dict(value)
    if isinstance(thing, torch.optim.Optimizer):
        _undo_casts(thing, value)


def _undo_casts(optimizer: torch.optim.Optimizer, value: dict[str, Any]) -> None:
    """load_state_dict casts floating states to the parameter's dtype, which would lose bits."""
    own = things.parameters(optimizer)
    for number, entries in value["state"].items():
        for key, entry in entries.items():
            now = optimizer.state[own[number]].get(key)
            if isinstance(now, torch.Tensor) and isinstance(entry, torch.Tensor) and now.dtype != entry.dtype:
                optimizer.state[own[number]][key] = entry.to(now.device)


def _same_groups(
    name: str, sealed: list[dict[str, Any]], now: list[dict[str, Any]], number: dict[str, int]
) -> None:
    if [len(one["params"]) for one in sealed] != [len(one["params"]) for one in now]:
        raise Incompatible(
            f"{name}: parameter groups of {[len(one['params']) for one in sealed]} parameters in the "
            f"checkpoint, of {[len(one['params']) for one in now]} now"
        )
    at = 0
    for group, present in zip(sealed, now, strict=True):
        expected = {called for called, i in number.items() if at <= i < at + len(present["params"])}
        at += len(present["params"])
        strangers = set(group["params"]) - expected
        if strangers:
            raise Incompatible(f"{name}: {min(strangers)} is in another parameter group, or gone")


def _state(folder: Path, whole: Seal) -> Any:
    part = next((one for one in whole.parts if one.uri == names.STATE), None)
    if part is None:
        raise NotVerified(f"the seal lists no {names.STATE}")
    return json.loads(_bytes(folder / names.STATE, part.hash))


def _set(folder: Path, name: str, whole: Seal) -> tuple[Path, Metadata] | None:
    """The set called `name`; its pickled metadata is hashed in memory before it is opened."""
    files = {
        part.uri.removeprefix(f"{name}/"): part for part in whole.parts if part.uri.startswith(f"{name}/")
    }
    if not files:
        return None
    if names.METADATA not in files:
        raise NotVerified(f"the seal lists no {name}/{names.METADATA}")
    data = _bytes(folder / names.METADATA, files[names.METADATA].hash)
    return folder, dcp.parse_metadata(data, files.keys())


def _bytes(path: Path, wanted: str) -> bytes:
    """A file's content, hashed once more: what is parsed is what was verified, not what came after."""
    data = path.read_bytes()
    if durable.digest(data) != wanted:
        raise NotVerified(f"{path.name} changed after it was verified")
    return data
