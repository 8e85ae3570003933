"""A question about costs, read strictly from what somebody typed: pure.

Whoever asks gets a sentence about the first thing that is not understood, and never an answer to something
else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from mlenv_operator.cost.facts import HOUR, SECOND
from mlenv_operator.cost.money import parse_time
from mlenv_operator.ledger.calendar import hours_of, month_at, parse_month
from mlenv_operator.ledger.errors import LedgerError
from mlenv_operator.ledger.schema import FACETS, KINDS, MACHINES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mlenv_operator.cost.facts import Micros

CHARGED: Final = ("job", "job_uid", "pod", "node", "attempt", "price_id")
"""What only the charges know: slower than the rest."""
TIMES: Final = ("hour", "day", "month")
FILTERS: Final = (*FACETS, *MACHINES, "category", *CHARGED)
DIMENSIONS: Final = (*FILTERS, *TIMES)
"""By what costs can be grouped."""
FORMATS: Final = {
    "json": "application/json",
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
}
SORTS: Final = ("cost", "key")
MAX_BY: Final = 6
MAX_VALUES: Final = 50
MAX_TEXT: Final = 253
MAX_DAYS: Final = 1830
MAX_GROUPS: Final = 50_000
"""So many groups at most are answered, and held in memory."""
MAX_LINES: Final = 5_000
_OTHER: Final = ("by", "since", "until", "month", "limit", "offset", "sort", "format")


class QuestionError(LedgerError):
    """The question is not understood, or asks for too much; the message says what to write instead."""


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of an answer."""

    limit: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Question:
    """What did it cost, by what, when, and of whom."""

    by: tuple[str, ...]
    since: Micros
    until: Micros
    page: Page
    month: int | None = None
    """Not when it was used, but in which month it was booked: what the month's bill says."""
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sort: str = "cost"

    @property
    def of_charges(self) -> bool:
        """Whether sums that are kept do not know the answer."""
        return any(name in CHARGED for name in (*self.by, *self.where))


def parse(pairs: Iterable[tuple[str, str]], now: Micros) -> Question:
    """The question that the parameters ask; raises QuestionError."""
    said = _said(pairs, {*_OTHER, *FILTERS})
    by, where = _by(said.pop("by", [])), _where(said)
    month = _one(said, "month")
    since, until, number = (*_times(said, now), None) if month is None else _month(said, month)
    return Question(by, since, until, page(said, 100, MAX_GROUPS), number, where, _sort(said))


def parse_page(pairs: Iterable[tuple[str, str]]) -> tuple[Page, str | None]:
    """Of an explanation: which part, and of which job of that name."""
    said = _said(pairs, {"limit", "offset", "uid", "format"})
    return page(said, 1000, MAX_LINES), _one(said, "uid")


def parse_uid(pairs: Iterable[tuple[str, str]]) -> str | None:
    """Of a bill: which job of that name; None: the newest."""
    return _one(_said(pairs, {"uid", "format"}), "uid")


def chosen_format(pairs: Iterable[tuple[str, str]], accept: str) -> str:
    """The format that is asked for: by `format`, else by the header Accept, else JSON."""
    named = [value for name, value in pairs if name == "format"]
    if named:
        return _among("format", named[-1], tuple(FORMATS))
    kinds = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    return next((name for kind in kinds for name, media in FORMATS.items() if kind == media), "json")


def page(said: Mapping[str, Sequence[str]], default: int, most: int) -> Page:
    """`limit` and `offset`."""
    limit = _number("limit", _one(said, "limit") or str(default), 1, most)
    return Page(limit, _number("offset", _one(said, "offset") or "0", 0, 10**9))


def _said(pairs: Iterable[tuple[str, str]], known: set[str]) -> dict[str, list[str]]:
    said: dict[str, list[str]] = {}
    for name, value in pairs:
        if name not in known:
            raise QuestionError(f"There is no parameter {name[:60]!r}; there are {', '.join(sorted(known))}.")
        if len(value) > MAX_TEXT or not value.isprintable():
            raise QuestionError(f"{name}: a value has at most {MAX_TEXT} printable characters.")
        said.setdefault(name, []).append(value)
    return said


def _one(said: Mapping[str, Sequence[str]], name: str) -> str | None:
    values = said.get(name, [])
    if len(values) > 1:
        raise QuestionError(f"{name}: say it once, not {len(values)} times.")
    return values[0] if values else None


def _by(values: Sequence[str]) -> tuple[str, ...]:
    names = [name.strip() for value in values for name in value.split(",")] or ["namespace"]
    for name in names:
        _among("by", name, DIMENSIONS)
    if len(set(names)) != len(names):
        raise QuestionError("by: name each only once.")
    if len(names) > MAX_BY:
        raise QuestionError(f"by: at most {MAX_BY} at a time, not {len(names)}.")
    return tuple(names)


def _where(said: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    found = {name: tuple(dict.fromkeys(said[name])) for name in FILTERS if name in said}
    for name, values in found.items():
        if len(values) > MAX_VALUES:
            raise QuestionError(f"{name}: at most {MAX_VALUES} values, not {len(values)}.")
    for value in found.get("category", ()):
        _among("category", value, tuple(map(str, KINDS)))
    for value in found.get("attempt", ()):
        _number("attempt", value, 0, 10**9)
    return found


def _sort(said: Mapping[str, Sequence[str]]) -> str:
    return _among("sort", _one(said, "sort") or "cost", SORTS)


def _times(said: Mapping[str, Sequence[str]], now: Micros) -> tuple[Micros, Micros]:
    """[since, until): this month until the end of this hour, unless said."""
    until = _time("until", _one(said, "until"), -(-now // HOUR) * HOUR)
    since = _time("since", _one(said, "since"), hours_of(month_at(min(now, until - 1)))[0] * HOUR)
    if since >= until:
        raise QuestionError("since must be before until.")
    if until - since > MAX_DAYS * 24 * HOUR:
        raise QuestionError(f"At most {MAX_DAYS} days can be asked for at a time: give since and until.")
    return since, until


def _time(name: str, text: str | None, default: Micros) -> Micros:
    if text is None:
        return default
    try:
        at = parse_time(text)
    except (ValueError, OverflowError) as error:
        raise QuestionError(f"{name}: {error}.") from None
    if at % HOUR or at < 0:
        raise QuestionError(
            f"{name}: the ledger knows whole hours, so {text!r} must be one, as 2025-11-01T05:00Z."
        )
    return at


def _month(said: Mapping[str, Sequence[str]], text: str) -> tuple[Micros, Micros, int]:
    if "since" in said or "until" in said:
        raise QuestionError("Ask for a month as it is billed, or for since and until; not for both.")
    try:
        number = parse_month(text)
    except ValueError:
        raise QuestionError(f"month: {text!r} is no month, as 2025-11.") from None
    if number < 197001 or number > 900012:
        raise QuestionError(f"month: {text!r} is no month, as 2025-11.")
    first, last = hours_of(number)
    return first * HOUR, last * HOUR, number


def _number(name: str, text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 12 and least <= int(text) <= most):
        raise QuestionError(f"{name} must be a whole number from {least} to {most}, not {text[:40]!r}.")
    return int(text)


def _among(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise QuestionError(f"{name}: there is no {value[:60]!r}; there are {', '.join(known)}.")
    return value


def show_time(at: Micros) -> str:
    """As `2025-11-30T23:00:00.000000Z`."""
    seconds, micros = divmod(at, SECOND)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{micros:06d}Z"
