"""Kubernetes quantities as whole numbers."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal
from typing import Final

_SUFFIXES: Final = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate("kMGTPE", start=1)},
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", start=1)},
}
_PATTERN: Final = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?)([numkMGTPE]|[KMGTPE]i)?")


def quantity(value: int | str) -> int | None:
    """The value in units (bytes, cores, devices), rounded up; null when it is no quantity."""
    return _scaled(value, 1)


def milli(value: int | str) -> int | None:
    """The value in thousandths of a unit, rounded up; null when it is no quantity."""
    return _scaled(value, 1000)


def _scaled(value: int | str, scale: int) -> int | None:
    match = _PATTERN.fullmatch(str(value).strip())
    if match is None:
        return None
    number = Decimal(match[1]) * _SUFFIXES[match[2] or ""] * scale
    return int(number.to_integral_value(ROUND_CEILING))
