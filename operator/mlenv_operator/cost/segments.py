"""The price of one node over time, as metering needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlenv_operator.cost.facts import Micros, Nanos


class Segment(NamedTuple):
    """In [t0, t1) the whole node costs this much; an empty `price_id` says that nobody knows."""

    t0: Micros
    t1: Micros
    price_id: str
    list_nano_per_hour: Nanos
    effective_nano_per_hour: Nanos


def covering(segments: Sequence[Segment], start: Micros, end: Micros) -> list[Segment]:
    """Segments that fill [start, end) without gaps: where nobody named a price, one without."""
    found: list[Segment] = []
    at = start
    for one in sorted(segments, key=_by_start):
        begin, stop = max(one.t0, start), min(one.t1, end)
        if begin >= stop:
            continue
        if begin < at:
            raise ValueError(f"Two prices for one moment: {found[-1]} and {one}; give each its own time.")
        if begin > at:
            found.append(_unknown(at, begin))
        found.append(_unknown(begin, stop) if not one.price_id else one._replace(t0=begin, t1=stop))
        at = stop
    if at < end:
        found.append(_unknown(at, end))
    return found


def _by_start(segment: Segment) -> Micros:
    return segment.t0


def _unknown(start: Micros, end: Micros) -> Segment:
    return Segment(start, end, "", 0, 0)
