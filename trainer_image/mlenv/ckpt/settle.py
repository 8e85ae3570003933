"""What ranks have in common, and what each has for itself; checksums from everybody's shares. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mlenv.ckpt import checksum
from mlenv.ckpt.errors import SaveFailed, StateInvalid
from mlenv.ckpt.seal import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

MAX_PRIVATE: Final = 64 << 20
"""Bytes of tensors that one rank may have for itself: they are kept for every rank, by every folder."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A tensor that may differ between ranks."""

    dtype: str
    shape: tuple[int, ...]
    sum: int


@dataclass(frozen=True, slots=True)
class Digests:
    """One rank's view of everything that could differ."""

    tensors: dict[str, Fingerprint]
    trees: dict[str, str]


@dataclass(frozen=True, slots=True)
class Agreed:
    """What is alike on all ranks, by name, and the tensors that are not."""

    tensors: frozenset[str]
    different: frozenset[str]
    trees: frozenset[str]


@dataclass(frozen=True, slots=True)
class Share:
    """One rank's summand of one tensor's checksum."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    copy: int
    """Which copy it belongs to; -1: a shard."""
    sum: int
    model: bool


def settle(everybody: Sequence[Digests]) -> Agreed:
    """What all have alike is kept once; the rest is kept for each rank."""
    tensors = _alike([one.tensors for one in everybody])
    known = {name for one in everybody for name in one.tensors}
    return Agreed(tensors, frozenset(known) - tensors, _alike([one.trees for one in everybody]))


def _alike(everybody: Sequence[Mapping[str, object]]) -> frozenset[str]:
    first = everybody[0]
    return frozenset(n for n, value in first.items() if all(one.get(n) == value for one in everybody))


def check_size(own: Mapping[str, torch.Tensor]) -> None:
    """Refuse to keep a lot for each rank."""
    size = sum(one.numel() * one.element_size() for one in own.values())
    if size > MAX_PRIVATE:
        biggest = max(own, key=lambda name: own[name].numel())
        raise StateInvalid(
            f"{size >> 20} MiB of this rank's tensors differ from other ranks' ({biggest} is the biggest), "
            "and are no shards: make them equal, shard them with fully_shard, or leave them out"
        )


def tensors(shares: Sequence[Share]) -> tuple[Tensor, ...]:
    """The seal's list. Raises SaveFailed when two copies of the same tensor are not the same."""
    sums: dict[str, dict[int, int]] = {}
    about: dict[str, Share] = {}
    for share in shares:
        about.setdefault(share.name, share)
        by_copy = sums.setdefault(share.name, {})
        by_copy[share.copy] = (by_copy.get(share.copy, 0) + share.sum) % checksum.MODULUS
    return tuple(_tensor(about[name], sums[name]) for name in sorted(about))


def _tensor(about: Share, by_copy: Mapping[int, int]) -> Tensor:
    if len(set(by_copy.values())) > 1:
        raise SaveFailed(
            f"{about.name} differs between nodes {' and '.join(map(str, by_copy))}, where it should be "
            "equal: the replicas have drifted apart (a hardware fault, or a change made on some ranks only)"
        )
    total = next(iter(by_copy.values()))
    return Tensor(
        name=about.name,
        shape=about.shape,
        dtype=about.dtype,
        checksum=checksum.text(total),
        model=about.model,
    )
