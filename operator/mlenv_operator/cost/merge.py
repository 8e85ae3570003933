"""One fact of what several say about one pod, or one node: the same whichever came first."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from mlenv_operator.cost.facts import Node, Pod

if TYPE_CHECKING:
    from mlenv_operator.cost.facts import Micros

Told = TypeVar("Told", Node, Pod)

TIMES: Final = frozenset({"scheduled", "started", "finished", "released", "created", "deleted"})


def merged(one: Told, other: Told) -> Told:
    """What both say. Where they contradict each other, of times the earlier, of anything else the larger."""
    if one == other:
        return one
    both = {field.name: (getattr(one, field.name), getattr(other, field.name)) for field in fields(one)}
    told: dict[str, Any] = {
        name: earlier(*pair) if name in TIMES else max(pair) for name, pair in both.items()
    }
    return replace(one, **told)


def earlier(one: Micros | None, other: Micros | None) -> Micros | None:
    """Of two times of one event the earlier; 0 is none, where the other one is told."""
    told = [at for at in (one, other) if at]
    return min(told) if told else one if one == other else None
