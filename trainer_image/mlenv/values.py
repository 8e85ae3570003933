"""Metrics as numbers, and the line of the console that shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from mlenv_api.protocol import Progress

RESERVED: Final = frozenset({"step", "time", "attempt", "samples", "steps_per_second"})
"""Names that every row of metrics.jsonl has already."""
Metric = float | torch.Tensor


def line(shown: Progress, without: AbstractSet[str]) -> str:
    """How far it is, with the values that are shown `without` some."""
    step, total, rate = shown.step, shown.total_steps, shown.steps_per_second
    parts = [f"step {step}" if total is None else f"step {step}/{total}"]
    if rate:
        parts.append(f"{rate:.1f} step/s")
    parts += [f"{name} {value:.4g}" for name, value in shown.metrics.items() if name not in without]
    if rate and total is not None and step < total:
        parts.append(f"{(total - step) / rate:.0f} s left")
    return "  ".join(parts)


def numbers_of(metrics: Mapping[str, Metric]) -> dict[str, float]:
    """The metrics as numbers; waits for the device. Raises TypeError and ValueError for what can be none."""
    wrong = RESERVED & metrics.keys()
    if wrong:
        raise ValueError(f"{', '.join(sorted(wrong))}: this name is taken; every row has it already")
    return {name: _number(name, value) for name, value in metrics.items()}


def _number(name: str, value: Metric) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be one number (or a tensor of one element): {error}") from None
