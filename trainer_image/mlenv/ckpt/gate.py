"""Whether a snapshot may become a checkpoint: what is not finite must not be gone on from.

A weight or a moment that is NaN never heals, and makes NaN of everything it meets: a checkpoint of it would
be the newest, and each restart would go on from there. So host copies are looked at before anything is
written, in the thread that writes. One pass for the lowest and the highest number of a tensor finds NaN and
infinities without memory of its own, at some twenty times the speed of the checksum; numbers are counted only
where it found something.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from torch import nn

from mlenv.ckpt import boxes, things

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Rule = Literal["refuse", "allow"]
RULES: Final = ("refuse", "allow")
LOSS: Final = "loss"
"""The committed metric that must be finite too."""
_DIRECT: Final = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_WHOLE: Final = 1 << 62
_BLOCK: Final = 1 << 16
"""Numbers at a time where they are widened or counted: what is in use fits a core's cache."""


@dataclass(frozen=True, slots=True)
class Census:
    """How many numbers of a tensor are not finite."""

    nans: int = 0
    infinities: int = 0

    def within(self, allowed: Census) -> bool:
        """Whether there is no kind here that is not there."""
        return not (self.nans and not allowed.nans) and not (self.infinities and not allowed.infinities)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rank found, or all together."""

    text: str
    """The first tensor and its numbers, for people."""
    state: bool
    """Whether it is in the state, which never heals; else only the loss is not finite."""


NOTHING: Final = Census()


class Gate:
    """Knows what of `living` may hold what is not finite: what did so when the run began, and no more.

    That is for masks of -inf and for trackers of a lowest value, which start at inf. Parameters that are
    trained and what an optimizer keeps are never excused.
    """

    def __init__(self, living: Mapping[str, Any]) -> None:
        self._strict = frozenset(_trained(living))
        self._optimizers = frozenset(n for n, one in living.items() if isinstance(one, torch.optim.Optimizer))
        self._known: dict[str, Census] = {}
        self._living = {n: one for n, one in living.items() if n not in self._optimizers | {"data"}}
        self.learn()

    def learn(self) -> None:
        """What is not finite now may be so from here on."""
        for name, thing in self._living.items():
            # A thing that cannot tell its state yet has nothing to be excused; saving it will say why.
            with contextlib.suppress(Exception):
                for path, held in things.collect({name: thing}).tensors.items():
                    if not self._must_be_finite(path):
                        found, known = census(held.tensor), self._known.get(path, NOTHING)
                        self._known[path] = Census(
                            found.nans or known.nans, found.infinities or known.infinities
                        )

    def look(self, copies: Mapping[str, torch.Tensor], loss: Any = None) -> Finding | None:
        """What is wrong with this rank's part of a snapshot, and with its loss; None: nothing."""
        wrong = [name for name, one in copies.items() if not self._passes(name, one)]
        if wrong:
            name, found = wrong[0], census(copies[wrong[0]])
            more = f", and {len(wrong) - 1} more tensor(s) like it" if len(wrong) > 1 else ""
            size = boxes.local(copies[name]).numel()
            return Finding(f"{name} has {_count(found)} among {size} numbers{more}", state=True)
        if isinstance(loss, int | float) and not math.isfinite(loss):
            return Finding(f"the committed loss is {loss}", state=False)
        return None

    def _passes(self, name: str, tensor: torch.Tensor) -> bool:
        if finite(tensor):
            return True
        # A state that is all NaN is not counted, only the first tensor of it: counting is much slower.
        known = NOTHING if self._must_be_finite(name) else self._known.get(name, NOTHING)
        return known != NOTHING and census(tensor).within(known)

    def _must_be_finite(self, name: str) -> bool:
        return name in self._strict or name.partition(".")[0] in self._optimizers


def judge(found: Sequence[Finding | None]) -> Finding | None:
    """The verdict on what each rank found: the state comes before the loss. Pure; None: nothing is wrong."""
    bad = [(rank, one) for rank, one in enumerate(found) if one is not None]
    if not bad:
        return None
    rank, first = next(((rank, one) for rank, one in bad if one.state), bad[0])
    others = [str(number) for number, _ in bad if number != rank]
    more = f" (rank(s) {', '.join(others[:8])} found something too)" if others else ""
    return Finding(f"rank {rank}: {first.text}{more}", state=first.state)


def census(tensor: torch.Tensor) -> Census:
    """How many of the numbers that this rank holds of `tensor` are NaN or infinite."""
    if finite(tensor):
        return NOTHING
    nans = infinities = 0
    for piece in _pieces(tensor, _BLOCK):
        if not _within_bounds(piece):
            nans += int(torch.isnan(piece).sum())
            infinities += int(torch.isinf(piece).sum())
    return Census(nans, infinities)


def finite(tensor: torch.Tensor) -> bool:
    """Whether all numbers are that this rank holds of `tensor`; one pass, without memory of its own."""
    return all(_within_bounds(piece) for piece in _pieces(tensor, _WHOLE))


def _pieces(tensor: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
    """The numbers, so many at a time, of a kind that torch can compare; those of one byte are widened."""
    memory = boxes.local(tensor).detach()
    if memory.is_complex():
        memory = torch.view_as_real(memory)
    direct = memory.dtype in _DIRECT
    narrow = memory.is_floating_point() and memory.element_size() == 1 and "float4" not in str(memory.dtype)
    if memory.numel() and (direct or narrow):
        flat, size = memory.reshape(-1), size if direct else min(size, _BLOCK)
        for at in range(0, flat.numel(), size):
            yield flat[at : at + size] if direct else flat[at : at + size].float()


def _within_bounds(numbers: torch.Tensor) -> bool:
    least, most = torch.aminmax(numbers)  # NaN, if there is one, is both
    return math.isfinite(least.item()) and math.isfinite(most.item())


def _trained(living: Mapping[str, Any]) -> Iterator[str]:
    for name, thing in living.items():
        if isinstance(thing, nn.Module):
            for key, parameter in thing.named_parameters(remove_duplicate=False):
                if parameter.requires_grad:
                    yield f"{name}.{things.canonical(thing, key)}"


def _count(found: Census) -> str:
    counted = ((found.nans, "NaN"), (found.infinities, "infinite"))
    return " and ".join(f"{number} {what}" for number, what in counted if number)
