"""The checks of one run: asks the probe, gathers what ranks know of one snapshot, and judges it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from mlenv.ckpt import rng
from mlenv.sanity import tables
from mlenv.sanity.rules import Judge, Probed, Seen

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mlenv.ckpt.group import Group
    from mlenv.ckpt.seal import Seal
    from mlenv.sanity.rules import Sanity, Verdict

MOST: Final = 100
"""Sentences of each kind in a seal."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one rank knows of one snapshot."""

    metrics: dict[str, float]
    observed: dict[str, float]
    tables: dict[str, tables.Sums]
    probed: Probed | None


class Watch:
    """Every rank has one; all judge alike, from the same numbers."""

    def __init__(self, rules: Sanity, living: Mapping[str, Any]) -> None:
        self._ask = rules.probe
        self._models = [one for one in living.values() if isinstance(one, nn.Module)]
        self._sampler = tables.Sampler(living)
        self._judge = Judge(rules)
        self._probed: Probed | None = None

    def probe(self, control: Group) -> None:
        """Ask the probe, in training's own thread. Leaves models and generators as they were.

        Where it raises on some ranks only, others may still wait for these within a sharded model: no rank
        takes up training, whose collectives would be taken for theirs, before all have left the probe.
        """
        if self._ask is None:
            return
        self._try(self._ask)
        raised = self._probed.error if self._probed else ""
        if raised and not control.alone:
            sys.stderr.write(f"mlenv: the probe raised {raised}; all ranks wait for each other to leave it\n")
            sys.stderr.flush()
        control.most([bool(raised)])

    def _try(self, ask: Callable[[], Any]) -> None:
        training = [part for model in self._models for part in model.modules() if part.training]
        generators = rng.capture()
        try:
            for part in training:
                part.training = False
            with torch.no_grad():
                self._probed = _probed(ask())
        except Exception as error:  # noqa: BLE001  (a user's function must not end training)
            self._probed = Probed(0.0, error=f"{type(error).__name__}: {error}"[:300])
        finally:
            for part in training:
                part.training = True
            self._shard_again()
            rng.restore(generators)

    def _shard_again(self) -> None:
        """FSDP's outermost module keeps its parameters whole after a forward, until a backward comes."""
        for model in self._models:
            for part in model.modules():
                if isinstance(part, FSDPModule):
                    part.reshard()

    def measure(self, copies: Mapping[str, torch.Tensor], head: Seal) -> Measured:
        """This rank's part."""
        metrics = {name: float(value) for name, value in head.metrics.items()}
        observed = {name: float(value) for name, value in head.observed.items()}
        return Measured(metrics, observed, self._sampler.look(copies), self._probed)

    def judge(self, everybody: Sequence[Measured]) -> list[Verdict]:
        """The checks that failed. Metrics are rank 0's, as in the seal; of probes an error comes first."""
        probed = [one.probed for one in everybody if one.probed is not None]
        worst = next((one for one in probed if one.error), probed[0] if probed else None)
        first = everybody[0]
        merged = tables.merge([one.tables for one in everybody])
        return self._judge.judge(Seen(first.metrics, first.observed, merged, worst))


def told(head: Seal, found: Sequence[Verdict], tell: Callable[[str], None]) -> Seal:
    """The seal's head with the reasons; what only observes is said here."""
    insane = tuple(str(one)[:1000] for one in found if one.armed)[:MOST]
    remarks = tuple(str(one)[:1000] for one in found if not one.armed)[:MOST]
    if remarks:
        tell(f"step {head.step}, observed: {'; '.join(remarks)} (not armed, so nothing comes of it)")
    return head.model_copy(update={"insane": insane, "remarks": remarks})


def _probed(answer: Any) -> Probed:
    if isinstance(answer, torch.Tensor) and answer.numel() > 1:
        numbers = answer.detach().double()
        return Probed(float(numbers.mean()), float(numbers.std()))
    return Probed(float(answer))
