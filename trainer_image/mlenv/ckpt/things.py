"""What a checkpoint is made of: the state of models, optimizers and everything else, by canonical names.

A tensor's name is the same with and without DDP, fully_shard, torch.compile or activation checkpointing, so
that a checkpoint of one fits the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mlenv.ckpt import plain
from mlenv.ckpt.errors import StateInvalid

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

WRAPPERS: Final = frozenset({"_orig_mod", "_checkpoint_wrapped_module"})


@dataclass(frozen=True, slots=True)
class Held:
    """One tensor of the state."""

    tensor: torch.Tensor
    alike: bool
    """Whether all ranks have the same by construction (DDP, and what an optimizer keeps for it)."""
    model: bool


@dataclass(slots=True)
class State:
    """Everything that is to be kept: tensors, and the rest as JSON-ready data for each thing."""

    tensors: dict[str, Held] = field(default_factory=dict)
    trees: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, held: Held) -> None:
        """Keep a tensor. Raises StateInvalid when the name is taken."""
        if name in self.tensors:
            raise StateInvalid(f"two tensors would be called {name}: give one of the things another name")
        self.tensors[name] = held


def collect(things: Mapping[str, Any]) -> State:
    """The state of `things` as it is now; the tensors are the living ones. Raises StateInvalid."""
    state = State()
    names = Names(things)
    for thing_name, thing in things.items():
        if isinstance(thing, nn.Module):
            state.trees[thing_name] = _of_model(thing_name, thing, names, state)
        elif isinstance(thing, torch.optim.Optimizer):
            state.trees[thing_name] = _of_optimizer(thing_name, thing, names, state)
        elif hasattr(thing, "state_dict"):
            take = _taker(state)
            state.trees[thing_name] = plain.encode(thing.state_dict(), thing_name, take)
    return state


class Names:
    """Canonical names of all parameters of the models among `things`."""

    def __init__(self, things: Mapping[str, Any]) -> None:
        self._by_id: dict[int, str] = {}
        self._alike: set[int] = set()
        for thing_name, thing in things.items():
            if isinstance(thing, nn.Module):
                for key, parameter in thing.named_parameters():
                    self._by_id.setdefault(id(parameter), f"{thing_name}.{canonical(thing, key)}")
                self._alike |= {id(one) for one in _under_ddp(thing)}

    def of(self, parameter: torch.Tensor, fallback: str) -> str:
        """Its name; `fallback` when it belongs to no model."""
        return self._by_id.get(id(parameter), fallback)

    def alike(self, parameter: torch.Tensor) -> bool:
        """Whether DDP keeps it equal on all ranks."""
        return id(parameter) in self._alike


def canonical(model: nn.Module, key: str) -> str:
    """`key` of `model`'s state_dict, without the names that wrappers add."""
    node: Any = model
    kept = []
    for part in key.split("."):
        wrapped = part in WRAPPERS or (isinstance(node, DistributedDataParallel) and part == "module")
        if not wrapped:
            kept.append(part)
        node = getattr(node, part, None)
    return ".".join(kept)


def parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """All its parameters, in the order in which its state_dict counts them."""
    return [one for group in optimizer.param_groups for one in group["params"]]


def _under_ddp(model: nn.Module) -> Iterator[nn.Parameter]:
    for module in model.modules():
        if isinstance(module, DistributedDataParallel):
            yield from module.parameters()


def _taker(state: State) -> Any:
    def take(path: str, tensor: torch.Tensor) -> None:
        state.add(path, Held(tensor.detach(), alike=False, model=False))

    return take


def _of_model(name: str, model: nn.Module, names: Names, state: State) -> Any:
    """Adds its tensors; the rest (extra state) as a tree."""
    # keep_vars: the objects themselves, so that what DDP keeps equal can be recognised.
    rest = {}
    for key, value in model.state_dict(keep_vars=True).items():
        short = canonical(model, key)
        if isinstance(value, torch.Tensor):
            state.add(f"{name}.{short}", Held(value.detach(), alike=names.alike(value), model=True))
        else:
            rest[short] = plain.encode(value, f"{name}.{short}", _taker(state))
    return rest


def _of_optimizer(name: str, optimizer: torch.optim.Optimizer, names: Names, state: State) -> Any:
    """Adds its tensors, named by parameter; groups and numbers as a tree."""
    own = parameters(optimizer)
    called = [names.of(one, f"parameter-{number}") for number, one in enumerate(own)]
    found = optimizer.state_dict()
    groups = [{**group, "params": [called[i] for i in group["params"]]} for group in found["param_groups"]]
    kept: dict[str, Any] = {}
    for number, entries in found["state"].items():
        kept[called[number]] = {
            key: _entry(f"{name}.{called[number]}.{key}", value, own[number], names, state)
            for key, value in entries.items()
        }
    return {"groups": plain.encode(groups, name, _taker(state)), "state": kept}


def _entry(path: str, value: Any, parameter: torch.Tensor, names: Names, state: State) -> Any:
    if isinstance(value, torch.Tensor):
        state.add(path, Held(value.detach(), alike=names.alike(parameter), model=False))
        return {"$tensor": path}
    return plain.encode(value, path, _taker(state))
