"""Traps of price lists: each was seen in a list that people trust. What is an error must price nothing."""

from __future__ import annotations

import re
from collections import defaultdict
from statistics import median_low
from typing import TYPE_CHECKING, Final

from mlenv_api.pricebook import CapacityType
from mlenv_operator.cost.facts import DOLLAR
from mlenv_operator.cost.hardware import NOTHING, Hardware
from mlenv_operator.cost.money import format_dollars
from mlenv_operator.cost.pricefile import Finding, Placed, Severity, Sheet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mlenv_operator.cost.facts import Nanos
    from mlenv_operator.cost.prices import PriceRow

SENTINEL: Final = 700 * DOLLAR
"""A catalog's word for "no price"."""
FAR: Final = 3
"""So many times more or less than its like is odd."""
SIBLINGS: Final = 2
"""So many others it takes to say what is usual."""
_MATCH: Final = ("provider", "region", "zone", "instance_type", "capacity_type", "reservation")

_NUMBERED: Final = re.compile(r"(.*[:\[])(\d+)\]?")

Family = tuple[str, str, str, CapacityType]


def lint(
    sheet: Sheet,
    hardware: Hardware = NOTHING,
    *,
    reference: Iterable[PriceRow] = (),
    previous: Iterable[PriceRow] = (),
) -> tuple[Finding, ...]:
    """Everything that is odd about a sheet, in the order of its rows.

    Args:
        sheet: what was read.
        hardware: devices of the machines; without them nothing can be said per device.
        reference: prices that are trusted, as the shipped ones: what a device usually costs.
        previous: the last version of the same list.
    """
    book, before = _Book(sheet, hardware, tuple(reference)), _by_match(previous)
    found = list(sheet.findings)
    for placed in sheet.placed:
        for check in _CHECKS:
            found += check(book, placed)
        found += _jump(placed, [*before.get(_match(placed.row), ()), *book.of_match(placed.row)])
    return tuple(sorted(found, key=lambda one: (_line(one.where), one.severity, one.rule)))


class _Book:
    """A sheet with its indexes."""

    def __init__(self, sheet: Sheet, hardware: Hardware, reference: tuple[PriceRow, ...]) -> None:
        self.hardware = hardware
        self._matches = _by_match(sheet.rows)
        self._on_demand: defaultdict[tuple[str, str, str], list[PriceRow]] = defaultdict(list)
        self._per_gpu: defaultdict[Family, list[tuple[PriceRow, Nanos]]] = defaultdict(list)
        self._usual: dict[tuple[Family, str], Nanos | None] = {}
        self._anywhere: defaultdict[tuple[str, CapacityType], list[Nanos]] = defaultdict(list)
        for row in sheet.rows:
            if row.capacity_type is CapacityType.ON_DEMAND:
                self._on_demand[row.provider, row.region, row.instance_type].append(row)
            if (one := self.per_gpu(row)) is not None:
                self._per_gpu[row.provider, row.region, self.model(row), row.capacity_type].append((row, one))
        for row in reference:
            if (one := self.per_gpu(row)) is not None:
                self._anywhere[self.model(row), row.capacity_type].append(one)

    def model(self, row: PriceRow) -> str:
        """Model of its devices."""
        instance = self.hardware.instance(row.provider, row.instance_type)
        return instance.gpu_model if instance else ""

    def per_gpu(self, row: PriceRow) -> Nanos | None:
        """Price of one device and hour, rounded down; None where no device is known."""
        instance = self.hardware.instance(row.provider, row.instance_type)
        return row.effective_nanos_per_hour // instance.gpus if instance and instance.gpus else None

    def of_match(self, row: PriceRow) -> list[PriceRow]:
        """All rows for the very same machines."""
        return self._matches[_match(row)]

    def on_demand(self, row: PriceRow) -> PriceRow | None:
        """The newest on-demand price of the sheet that had begun before this row ended, else the newest."""
        rows = self._on_demand.get((row.provider, row.region, row.instance_type), [])
        begun = [one for one in rows if row.until is None or one.since < row.until]
        return max(begun or rows, key=lambda one: one.since, default=None)

    def siblings(self, row: PriceRow) -> Nanos | None:
        """What the same device costs in other machines of the same provider, region and capacity type.

        The lower median; None when there are too few to say what is usual.
        """
        family = (row.provider, row.region, self.model(row), row.capacity_type)
        if (family, row.instance_type) not in self._usual:
            others = [price for one, price in self._per_gpu[family] if one.instance_type != row.instance_type]
            usual = median_low(others) if len(others) >= SIBLINGS else None
            self._usual[family, row.instance_type] = usual
        return self._usual[family, row.instance_type]

    def elsewhere(self, row: PriceRow) -> list[Nanos]:
        """What the same device costs in the lists that are trusted."""
        return self._anywhere.get((self.model(row), row.capacity_type), [])


def _sentinel(_: _Book, placed: Placed) -> Iterator[Finding]:
    row = placed.row
    if SENTINEL in (row.effective_nanos_per_hour, row.list_nanos_per_hour):
        yield _error(placed, "sentinel", "700.0 is a catalog's word for no price: remove the row")


def _spot(book: _Book, placed: Placed) -> Iterator[Finding]:
    row = placed.row
    if row.capacity_type is not CapacityType.SPOT:
        return
    known = book.on_demand(row)
    listed = known.effective_nanos_per_hour if known else row.list_nanos_per_hour
    paid = row.effective_nanos_per_hour
    said = f"spot {format_dollars(paid)}, on demand {format_dollars(listed)}"
    if paid > listed:
        yield _error(placed, "spot-above", f"{said}: nobody pays more for spot; look at the source again")
    elif paid == listed:
        text = f"{said}: equal means no history of this market, or no list price; remove the row, or add it"
        yield _warning(placed, "spot-equal", text)
    elif paid * 10 == listed:
        yield _warning(
            placed, "spot-tenth", f"{said}: exactly 10 % is a made-up number; look at the source again"
        )


def _devices(book: _Book, placed: Placed) -> Iterator[Finding]:
    """Host-only rows, and prices per device far from those of its like."""
    price = book.per_gpu(placed.row)
    if price is None:
        if book.hardware.instances and not book.model(placed.row):
            text = "the hardware table does not know this type: its price per device cannot be checked"
            yield _warning(placed, "unknown-hardware", text)
        return
    elsewhere, siblings = book.elsewhere(placed.row), book.siblings(placed.row)
    said = f"{format_dollars(price)} for one {book.model(placed.row)}"
    if elsewhere and price * FAR < median_low(elsewhere):
        usual = format_dollars(median_low(elsewhere))
        text = f"{said}, where {usual} is usual: the devices' price is missing; add it, or remove the row"
        yield _error(placed, "host-only", text)
    elif siblings is not None and _far(price, siblings):
        usual = format_dollars(siblings)
        text = f"{said}, and {usual} in its siblings: is it the price of one device, or of all?"
        yield _warning(placed, "per-gpu", text)


def _block(_: _Book, placed: Placed) -> Iterator[Finding]:
    row = placed.row
    if row.capacity_type is CapacityType.CAPACITY_BLOCK and not row.reservation and row.until is None:
        text = "the price of a capacity block was fixed when it was bought: name the block in reservation"
        yield _error(placed, "block", text)


def _conflict(book: _Book, placed: Placed) -> Iterator[Finding]:
    row = placed.row
    same = [one for one in book.of_match(row) if one.since == row.since and one.priority == row.priority]
    if any(one.id != row.id for one in same):
        text = "another row gives the same machines another price from the same moment on: remove one"
        yield _error(placed, "conflict", text)


def _jump(placed: Placed, others: list[PriceRow]) -> Iterator[Finding]:
    row = placed.row
    older = [one for one in others if one.since < row.since or one.as_of < row.as_of]
    last = max(older, key=lambda one: (one.since, one.as_of), default=None)
    if last is not None and _far(row.effective_nanos_per_hour, last.effective_nanos_per_hour):
        was, now = last.effective_nanos_per_hour, row.effective_nanos_per_hour
        text = f"{format_dollars(now)}, and {format_dollars(was)} in the version before: look at the source"
        yield _warning(placed, "jump", f"more than {FAR} times apart: {text} again")


_CHECKS: Final[tuple[Callable[[_Book, Placed], Iterator[Finding]], ...]] = (
    _sentinel,
    _spot,
    _devices,
    _block,
    _conflict,
)


def _far(one: Nanos, other: Nanos) -> bool:
    return one > other * FAR or one * FAR < other


def _match(row: PriceRow) -> tuple[str, ...]:
    return tuple(getattr(row, name) for name in _MATCH)


def _by_match(rows: Iterable[PriceRow]) -> defaultdict[tuple[str, ...], list[PriceRow]]:
    found: defaultdict[tuple[str, ...], list[PriceRow]] = defaultdict(list)
    for row in rows:
        found[_match(row)].append(row)
    return found


def _error(placed: Placed, rule: str, text: str) -> Finding:
    return Finding(placed.where, Severity.ERROR, rule, f"{placed.row.name}: {text}")


def _warning(placed: Placed, rule: str, text: str) -> Finding:
    return Finding(placed.where, Severity.WARNING, rule, f"{placed.row.name}: {text}")


def _line(where: str) -> tuple[str, int]:
    """Line 9 before line 10, and prices[9] before prices[10]."""
    found = _NUMBERED.fullmatch(where)
    return (found[1], int(found[2])) if found else (where, 0)
