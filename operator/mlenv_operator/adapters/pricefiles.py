"""Prices and hardware from files: what the wheel ships, and what somebody refreshes beside the operator."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final, Protocol

from mlenv_operator.cost.hardware import Hardware, parse_hardware
from mlenv_operator.cost.pricefile import Finding, Severity, Sheet, parse_sheet
from mlenv_operator.cost.pricelint import lint
from mlenv_operator.cost.prices import REFRESHED_PRIORITY, PriceRow

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

_DATA: Final = files("mlenv_operator.cost") / "data"
SHIPPED: Final = ("aws-2026-07-20.csv", "gcp-2026-06-23.csv")


@cache
def shipped_sheets() -> tuple[Sheet, ...]:
    """The price lists in the wheel."""
    return tuple(parse_sheet((_DATA / name).read_text(encoding="utf-8"), name) for name in SHIPPED)


@cache
def shipped_rows() -> tuple[PriceRow, ...]:
    """All prices in the wheel."""
    return tuple(row for sheet in shipped_sheets() for row in sheet.rows)


@cache
def shipped_hardware() -> Hardware:
    """The hardware tables in the wheel."""
    instances, gpus = ((_DATA / name).read_text(encoding="utf-8") for name in ("instances.csv", "gpus.csv"))
    return parse_hardware(instances, gpus)


class PriceSource(Protocol):
    """Where fresh prices come from, as a price list's API, or a file that something else writes."""

    def fetch(self, provider: str, region: str, instance_types: Collection[str]) -> Iterable[PriceRow]:
        """Rows for these machines; none for what it does not know.

        Raises:
            PriceSourceError: nothing can be said now; the rows of the last time stand.
        """


class PriceSourceError(Exception):
    """A source cannot be read, or holds what must not price anything; says what to do."""


@dataclass(frozen=True, slots=True)
class FileSource:
    """A CSV file in the format of the shipped ones. One error in it, and none of it is used."""

    path: Path
    priority: int = REFRESHED_PRIORITY

    def fetch(self, provider: str, region: str, instance_types: Collection[str]) -> tuple[PriceRow, ...]:
        """The file's rows for these machines, those without a region included."""
        return tuple(
            row
            for row in self._rows()
            if row.provider == provider and row.region in ("", region) and row.instance_type in instance_types
        )

    def _rows(self) -> tuple[PriceRow, ...]:
        try:
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise PriceSourceError(f"prices cannot be read from {self.path}: {error}") from error
        sheet = parse_sheet(text, self.path.name, priority=self.priority)
        wrong = [one for one in lint_with_shipped(sheet) if one.severity is Severity.ERROR]
        if wrong:
            more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            raise PriceSourceError(f"{wrong[0]}{more}: correct the file; until then the prices before stand")
        return sheet.rows


def lint_with_shipped(sheet: Sheet, previous: Iterable[PriceRow] = ()) -> tuple[Finding, ...]:
    """What is odd about a sheet, measured by what is shipped."""
    return lint(sheet, shipped_hardware(), reference=shipped_rows(), previous=previous)
