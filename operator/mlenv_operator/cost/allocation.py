"""Splits the price of a node-hour over rows: exact shares, rounded once, with nothing left over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from mlenv_operator.cost.facts import HOUR, Attribution, Category, Micros, Nanos, NodeUse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NOBODY = Attribution()


class Key(NamedTuple):
    """What makes a row, in the order in which ties are settled. Empty: does not apply."""

    pod_uid: str
    use: NodeUse | str
    attempt: int
    category: Category | str
    attribution: Attribution
    price_id: str


@dataclass(frozen=True, slots=True)
class Row:
    """What a pod, or a use of the node, cost in one hour of one node."""

    pod_uid: str
    use: NodeUse | None
    attempt: int
    category: Category | None
    attribution: Attribution
    price_id: str
    """Empty: nobody knows the price, and the costs are zero without meaning it."""
    held: Micros
    gpu_micros: int
    """Devices times microseconds."""
    cost: Nanos
    list_cost: Nanos

    @property
    def key(self) -> Key:
        """What makes the row."""
        use, category = self.use or "", self.category or ""
        return Key(self.pod_uid, use, self.attempt, category, self.attribution, self.price_id)


class Amount(NamedTuple):
    """What came together for a row: time, devices times time, and exact costs as numerators."""

    held: Micros
    gpu_micros: int
    cost: int
    list_cost: int


Amounts: TypeAlias = "list[tuple[Key, Amount]]"
"""One for each row."""


@dataclass(frozen=True, slots=True)
class Closing:
    """A node-hour, split. The costs of its rows add up to `total` and `list_total`."""

    rows: tuple[Row, ...]
    """Sorted by key."""
    total: Nanos
    list_total: Nanos
    unpriced: Micros
    """Time of the node without a price."""
    clamped: int
    """Times of its pods in this hour that were out of order, and were moved into the pod's life."""


def settle(amounts: Amounts, scale: int) -> tuple[Row, ...]:
    """Rows whose costs are exact shares, rounded so that their sum is the rounded sum.

    Costs are numerators over HOUR * scale.
    """
    whole = HOUR * scale
    ordered = sorted(amounts)
    costs = apportion([amount.cost for _, amount in ordered], whole)
    lists = apportion([amount.list_cost for _, amount in ordered], whole)
    return tuple(
        _row(key, amount, cost, listed)
        for (key, amount), cost, listed in zip(ordered, costs, lists, strict=True)
    )


def floors(amounts: Amounts, scale: int) -> tuple[Row, ...]:
    """Rows of an hour that is not over: whatever still comes, none of them will have cost less."""
    whole = HOUR * scale
    return tuple(
        _row(key, amount, amount.cost // whole, amount.list_cost // whole) for key, amount in sorted(amounts)
    )


def _row(key: Key, amount: Amount, cost: Nanos, list_cost: Nanos) -> Row:
    use = NodeUse(key.use) if key.use else None
    category = Category(key.category) if key.category else None
    return Row(
        key.pod_uid,
        use,
        key.attempt,
        category,
        key.attribution,
        key.price_id,
        amount.held,
        amount.gpu_micros,
        cost,
        list_cost,
    )


def apportion(numerators: Sequence[int], denominator: int) -> list[int]:
    """Integers as near as possible to the fractions, whose sum is the fractions' sum, rounded half to even.

    Each gets its floor; what is left goes, a unit each, to the largest remainders, the first of equals.
    """
    parts = [divmod(one, denominator) for one in numerators]
    floors_ = [floor for floor, _ in parts]
    left = round_half_even(sum(numerators), denominator) - sum(floors_)
    if left:
        ranked = sorted(range(len(parts)), key=lambda place: -parts[place][1])
        for place in ranked[:left]:
            floors_[place] += 1
    return floors_


def round_half_even(numerator: int, denominator: int) -> int:
    """The nearest integer; of two that are equally near, the even one."""
    floor, rest = divmod(numerator, denominator)
    return floor + (2 * rest > denominator or (2 * rest == denominator and floor % 2))


@dataclass(frozen=True, slots=True)
class Correction:
    """What a closing becomes, by rows: amounts are differences and may be negative."""

    rows: tuple[Row, ...]
    total: Nanos
    list_total: Nanos
    unpriced: Micros


def correction(before: Closing, after: Closing) -> Correction:
    """The rows to add to those of `before`, so that their sums by key are those of `after`."""
    old, new = {one.key: one for one in before.rows}, {one.key: one for one in after.rows}
    rows = (_difference(key, old, new) for key in sorted(old.keys() | new.keys()))
    return Correction(
        tuple(row for row in rows if row.held or row.gpu_micros or row.cost or row.list_cost),
        after.total - before.total,
        after.list_total - before.list_total,
        after.unpriced - before.unpriced,
    )


def _difference(key: Key, old: Mapping[Key, Row], new: Mapping[Key, Row]) -> Row:
    held, gpus, cost, listed = (
        more - less for more, less in zip(_amounts(new.get(key)), _amounts(old.get(key)), strict=True)
    )
    return _row(key, Amount(held, gpus, 0, 0), cost, listed)


def _amounts(row: Row | None) -> tuple[int, int, int, int]:
    return (row.held, row.gpu_micros, row.cost, row.list_cost) if row else (0, 0, 0, 0)
