"""Prices as CSV: one row a line, times and money as text, read exactly or named as a finding."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from mlenv_api.pricebook import CapacityType
from mlenv_operator.cost.money import format_dollars, format_time, parse_dollars, parse_time
from mlenv_operator.cost.prices import SHIPPED_PRIORITY, PriceRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mlenv_operator.cost.facts import Nanos

COLUMNS: Final = (
    "provider",
    "region",
    "zone",
    "instance_type",
    "capacity_type",
    "reservation",
    "from",
    "to",
    "list_usd_per_hour",
    "effective_usd_per_hour",
    "source",
    "source_date",
)


class Severity(StrEnum):
    """Whether a row may be used."""

    ERROR = "error"
    """It must not: a wrong price is worse than none."""
    WARNING = "warning"
    """It may, and somebody should look."""


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """What is odd about a row: which, why, and what to do."""

    where: str
    severity: Severity
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.severity}: {self.message} [{self.rule}]"


@dataclass(frozen=True, slots=True)
class Placed:
    """A row and where it stands."""

    where: str
    row: PriceRow


@dataclass(frozen=True, slots=True)
class Sheet:
    """What a file holds."""

    placed: tuple[Placed, ...] = ()
    findings: tuple[Finding, ...] = ()
    """Of rows that could not be read; they are not among `placed`."""

    @property
    def rows(self) -> tuple[PriceRow, ...]:
        """The rows that could be read."""
        return tuple(one.row for one in self.placed)


class Unreadable(ValueError):  # noqa: N818  (says the fact)
    """A row cannot be read; carries the rule that it breaks."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


def parse_sheet(text: str, name: str, *, priority: int = SHIPPED_PRIORITY) -> Sheet:
    """Reads CSV text; ``name`` is the file's, for findings."""
    reader = csv.DictReader(io.StringIO(text))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        message = f"the columns are {reader.fieldnames or []}: they must be {', '.join(COLUMNS)}"
        return Sheet(findings=(Finding(f"{name}:1", Severity.ERROR, "columns", message),))
    placed, findings = [], []
    for cells in reader:
        where = f"{name}:{reader.line_num}"
        try:
            placed.append(Placed(where, _row(cells, priority)))
        except Unreadable as error:
            findings.append(Finding(where, Severity.ERROR, error.rule, f"{_title(cells)}: {error}"))
    return Sheet(tuple(placed), tuple(findings))


def format_sheet(rows: Iterable[PriceRow]) -> str:
    """The CSV text of rows; reading it gives the same rows, but for their priority."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_cells(row) for row in rows)
    return out.getvalue()


def price_of(text: str, rule: str = "") -> Nanos:
    """Nanodollars of the text of a price, which is more than 0.

    Raises:
        Unreadable: with the trap that it fell into.
    """
    if not text.strip():
        raise Unreadable(rule or "blank", "the price is blank: remove the row, or give its price")
    try:
        nanos = parse_dollars(text)
    except ValueError as error:
        why = "nan" if text.strip().lower().lstrip("+-") in _NOT_NUMBERS else "number"
        raise Unreadable(why, f"{error}: correct it, or remove the row") from None
    if nanos == 0:
        raise Unreadable("zero", "the price is 0, which no machine costs: remove the row, or give its price")
    return nanos


_NOT_NUMBERS: Final = frozenset({"nan", "inf", "infinity", "none", "null", "n/a"})


def _row(cells: Mapping[str, str | None], priority: int) -> PriceRow:
    if None in cells or any(cell is None for cell in cells.values()):
        raise Unreadable("cells", f"it has not {len(COLUMNS)} cells: quote what holds a comma")
    given = {name: (cell or "").strip() for name, cell in cells.items()}
    for name in ("provider", "instance_type", "from", "source", "source_date"):
        if not given[name]:
            raise Unreadable("source" if "source" in name else "cells", f"{name} is empty: fill it in")
    effective = price_of(given["effective_usd_per_hour"])
    listed = given["list_usd_per_hour"]
    try:
        return PriceRow(
            provider=given["provider"],
            region=given["region"],
            zone=given["zone"],
            instance_type=given["instance_type"],
            capacity_type=_capacity(given["capacity_type"]),
            reservation=given["reservation"],
            since=parse_time(given["from"]),
            until=parse_time(given["to"]) if given["to"] else None,
            list_nanos_per_hour=price_of(listed) if listed else effective,
            effective_nanos_per_hour=effective,
            source=given["source"],
            as_of=parse_time(given["source_date"]),
            priority=priority,
        )
    except Unreadable:
        raise
    except ValueError as error:
        raise Unreadable("time", f"{error}: correct it") from None


def _capacity(text: str) -> CapacityType:
    try:
        return CapacityType(text)
    except ValueError:
        known = ", ".join(CapacityType)
        raise Unreadable("capacity-type", f"capacity type {text!r} is not one of {known}") from None


def _cells(row: PriceRow) -> tuple[str, ...]:
    return (
        row.provider,
        row.region,
        row.zone,
        row.instance_type,
        row.capacity_type,
        row.reservation,
        format_time(row.since),
        "" if row.until is None else format_time(row.until),
        format_dollars(row.list_nanos_per_hour),
        format_dollars(row.effective_nanos_per_hour),
        row.source,
        format_time(row.as_of),
    )


def _title(cells: Mapping[str, str | None]) -> str:
    words = (cells.get(name) for name in ("provider", "region", "instance_type", "capacity_type"))
    return " ".join(word for word in words if word) or "the row"
