"""Who shares a node, and what nobody holds of it: stretches in which neither changes."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from mlenv_operator.cost.facts import NodeUse

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mlenv_operator.cost.facts import Micros, Node, NodeMark
    from mlenv_operator.cost.segments import Segment


class Holding(NamedTuple):
    """What one pod holds of the node in [t0, t1)."""

    t0: Micros
    t1: Micros
    weight: int
    gpus: int


class Slot(NamedTuple):
    """A stretch in which price, holders and use stay the same. `free` of `whole` is held by nobody."""

    t0: Micros
    t1: Micros
    segment: Segment
    whole: int
    free: int
    free_gpus: int
    use: NodeUse


def slots(
    node: Node,
    whole: int,
    holdings: Iterable[Holding],
    marks: Iterable[NodeMark],
    segments: Sequence[Segment],
) -> list[Slot]:
    """The stretches of the time that `segments` fill without gaps."""
    changes = _changes(holdings, segments[0].t0)
    uses = sorted((mark.at, mark.use or "") for mark in marks)
    cuts = _cuts(segments, [*changes, *(at for at, _ in uses)])
    found: list[Slot] = []
    held = gpus = holders = price = said = 0
    for t0, t1 in pairwise(cuts):
        weight, devices, pods = changes.get(t0, (0, 0, 0))
        held, gpus, holders = held + weight, gpus + devices, holders + pods
        while segments[price].t1 <= t0:
            price += 1
        while said < len(uses) and uses[said][0] <= t0:
            said += 1
        use = _use(uses[said - 1][1] if said else "", gpus if node.gpus else holders)
        free_gpus = max(node.gpus - gpus, 0)
        found.append(Slot(t0, t1, segments[price], max(whole, held), max(whole - held, 0), free_gpus, use))
    return found


def _changes(holdings: Iterable[Holding], start: Micros) -> dict[Micros, tuple[int, int, int]]:
    """By moment: what is taken (or given back, below zero) of weight, devices, and by how many holders."""
    found: dict[Micros, tuple[int, int, int]] = {start: (0, 0, 0)}
    for one in holdings:
        holds = 1 if one.weight else 0
        for at, sign in ((one.t0, 1), (one.t1, -1)):
            weight, gpus, holders = found.get(at, (0, 0, 0))
            found[at] = (weight + sign * one.weight, gpus + sign * one.gpus, holders + sign * holds)
    return found


def _cuts(segments: Sequence[Segment], times: Iterable[Micros]) -> list[Micros]:
    start, end = segments[0].t0, segments[-1].t1
    inside = {at for at in times if start < at < end}
    return sorted(inside | {start} | {one.t1 for one in segments})


def _use(said: NodeUse | str, held: int) -> NodeUse:
    if said:
        return NodeUse(said)
    return NodeUse.FRAGMENTED if held else NodeUse.IDLE


class Rate(NamedTuple):
    """In [t0, t1) a unit of weight costs the segment's price / `whole`."""

    t0: Micros
    t1: Micros
    segment: Segment
    whole: int


def rates(stretches: Sequence[Slot]) -> list[Rate]:
    """The stretches in which what a holder pays does not change: mostly a single one."""
    found: list[Rate] = []
    for one in stretches:
        if found and found[-1].segment is one.segment and found[-1].whole == one.whole:
            found[-1] = found[-1]._replace(t1=one.t1)
        else:
            found.append(Rate(one.t0, one.t1, one.segment, one.whole))
    return found
