"""Decimal text to nanodollars and back, exactly; what is not exact is an error and never rounded."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from mlenv_operator.cost import moments
from mlenv_operator.cost.facts import DOLLAR, Micros, Nanos

_DECIMAL: Final = re.compile(r"(\d{1,9})(?:\.(\d{1,18}))?", re.ASCII)
_PLACES: Final = 9
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def parse_dollars(text: str) -> Nanos:
    """Nanodollars of a decimal number as 55.04; no sign, no exponent, nothing finer than a nanodollar.

    Raises:
        ValueError: with a sentence that says why the text is no such number.
    """
    found = _DECIMAL.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a decimal number of dollars, as 55.04")
    whole, places = found[1], (found[2] or "").rstrip("0")
    if len(places) > _PLACES:
        raise ValueError(f"{text!r} is finer than a nanodollar: give at most {_PLACES} decimal places")
    return int(whole) * DOLLAR + int(places.ljust(_PLACES, "0"))


def format_dollars(nanos: Nanos) -> str:
    """Decimal text of nanodollars, exact and without needless zeros: 55.04."""
    sign, size = ("-", -nanos) if nanos < 0 else ("", nanos)
    whole, rest = divmod(size, DOLLAR)
    places = f"{rest:0{_PLACES}d}".rstrip("0")
    return f"{sign}{whole}.{places}" if places else f"{sign}{whole}"


def parse_time(text: str) -> Micros:
    """Microseconds of an ISO 8601 date (its midnight in UTC), or of a time with its offset.

    Raises:
        ValueError: the text is neither.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is no date, as 2026-07-20, and no time, as 2026-07-20T13:44:30Z"
        ) from None
    if moment.tzinfo is None:
        if "T" in text or " " in text:
            raise ValueError(f"{text!r} does not say its offset: write it in UTC, with a Z at the end")
        moment = moment.replace(tzinfo=UTC)
    return moments.micros(moment)


def format_time(micros: Micros) -> str:
    """ISO 8601 in UTC."""
    return (_EPOCH + timedelta(microseconds=micros)).isoformat().replace("+00:00", "Z")
