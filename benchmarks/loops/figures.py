"""Figures of rounds: ratios taken within a round, their median and middle half. Pure."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from loops.turns import Turn

    Round = Mapping[str, Turn]

MICRO = 1e6


@dataclass(frozen=True)
class Middle:
    """A median, and the quartiles around it."""

    median: float
    low: float
    high: float


def middle(values: Sequence[float]) -> Middle:
    """Of at least two values."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Middle(median, low, high)


def faster(one: str, other: str) -> Callable[[Round], float]:
    """Throughput of one against that of the other."""
    return lambda turns: turns[other].per_step / turns[one].per_step


FIGURES: Mapping[str, Callable[[Round], float]] = {
    "throughput_ratio": faster("session+checkpoint", "session, long"),
    "stall_ratio": lambda turns: turns["session+checkpoint"].stall / turns["session+checkpoint"].seconds,
    "session_us_per_step": lambda turns: (
        MICRO * (turns["session, tiny"].per_step - turns["hand, tiny"].per_step)
    ),
    "fabric_us_per_step": lambda turns: (
        MICRO * (turns["fabric, tiny"].per_step - turns["hand, tiny"].per_step)
    ),
    "session_to_hand_ratio": faster("session", "hand"),
    "fabric_to_hand_ratio": faster("fabric", "hand"),
    "loader_to_frozen_ratio": faster("hand+stream", "hand"),
    "loader_to_dataloader_ratio": faster("hand+stream", "hand+dataloader"),
    "stall_to_torch_save_ratio": lambda turns: (
        turns["session+checkpoint"].stall / turns["hand+torch.save"].stall
    ),
    "stall_ms": lambda turns: 1000 * turns["session+checkpoint"].stall,
    "checkpoint_costs_s": lambda turns: turns["session+checkpoint"].seconds - turns["session, long"].seconds,
    "checkpoint_writer_cpu_s": lambda turns: turns["session+checkpoint"].writer,
    "torch_save_costs_s": lambda turns: turns["hand+torch.save"].seconds - turns["hand"].seconds,
}


def of(rounds: Sequence[Round]) -> dict[str, Middle]:
    """All figures."""
    return {name: middle([figure(turns) for turns in rounds]) for name, figure in FIGURES.items()}
