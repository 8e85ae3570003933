"""The public API's filters and orders: MongoDB's words over a run, evaluated here. Pure."""

from __future__ import annotations

import operator
import re
from typing import TYPE_CHECKING, Any

from mlenv_local.wandb_server.clock import parse_iso
from mlenv_local.wandb_server.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Lookup = Callable[[str], Any]
    """The value of a run's field, MISSING if it has none."""


class _Missing:
    """Told apart from None, which is a value."""


MISSING = _Missing()
_ORDERED = {"$lt": operator.lt, "$lte": operator.le, "$gt": operator.gt, "$gte": operator.ge}


def matches(condition: Mapping[str, Any], lookup: Lookup) -> bool:
    """Whether a run fulfils a condition: all of its keys."""
    return all(_clause(key, value, lookup) for key, value in condition.items())


def _clause(key: str, value: Any, lookup: Lookup) -> bool:
    if key in ("$and", "$or", "$nor"):
        if not isinstance(value, list):
            raise Refused(f"{key} of a filter needs a list of conditions.")
        results = [matches(one, lookup) for one in value]
        return {"$and": all(results), "$or": any(results), "$nor": not any(results)}[key]
    if key == "$not":
        return not matches(value, lookup)
    if key.startswith("$"):
        raise Refused(f"This server's filters know no {key!r}.")
    return _field(lookup(key), value)


def _field(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict) and any(str(key).startswith("$") for key in wanted):
        return all(_test(value, name, operand) for name, operand in wanted.items())
    return _equal(value, wanted)


def _test(value: Any, name: str, operand: Any) -> bool:
    if name in _ORDERED:
        return _compare(value, operand, _ORDERED[name])
    tests: dict[str, Callable[[], bool]] = {
        "$eq": lambda: _equal(value, operand),
        "$ne": lambda: not _equal(value, operand),
        "$in": lambda: any(_equal(value, one) for one in operand),
        "$nin": lambda: not any(_equal(value, one) for one in operand),
        "$exists": lambda: (value is not MISSING) == bool(operand),
        "$not": lambda: not _field(value, operand),
        "$regex": lambda: _found(value, operand),
    }
    if name not in tests:
        raise Refused(f"This server's filters know no {name!r}.")
    return tests[name]()


def _equal(value: Any, wanted: Any) -> bool:
    """Equal, or for a list: having it. Missing equals None, as in MongoDB."""
    if value is MISSING:
        return wanted is None
    if isinstance(value, list) and not isinstance(wanted, list):
        return any(_equal(one, wanted) for one in value)
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    if isinstance(value, Moment):
        return bool(value.milliseconds == _milliseconds(wanted))
    return bool(value == wanted)


def _compare(value: Any, operand: Any, test: Callable[[Any, Any], bool]) -> bool:
    if isinstance(value, list):
        return any(_compare(one, operand, test) for one in value)
    if isinstance(value, Moment):
        moment = _milliseconds(operand)
        return moment is not None and test(value.milliseconds, moment)
    if _number(value) and _number(operand):
        return test(value, operand)
    return isinstance(value, str) and isinstance(operand, str) and test(value, operand)


def _found(value: Any, pattern: str) -> bool:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise Refused(f"The filter's $regex {pattern!r} is none: {error}.") from error
    values = value if isinstance(value, list) else [value]
    return any(isinstance(one, str) and expression.search(one) for one in values)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _milliseconds(value: Any) -> float | None:
    if _number(value):
        return float(value) * 1000
    return parse_iso(value) if isinstance(value, str) else None


class Moment:
    """A time, compared with ISO 8601 strings and with seconds since 1970."""

    def __init__(self, milliseconds: int) -> None:
        self.milliseconds = milliseconds


def orders(text: str | None) -> list[tuple[str, bool]]:
    """Fields to sort by and whether downwards: `-created_at,+summary_metrics.loss`."""
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    return [(part.lstrip("+-"), part.startswith("-")) for part in parts]


def rank(value: Any) -> tuple[int, Any]:
    """A key by which any values can be sorted: what is missing comes first, then numbers, then text."""
    if isinstance(value, Moment):
        return (1, value.milliseconds)
    if isinstance(value, bool) or _number(value):
        return (1, value)
    if isinstance(value, str):
        return (2, value)
    return (0, 0)


def dig(value: Any, path: str) -> Any:
    """What a dotted path leads to; keys may themselves have dots, the longest that fits is taken."""
    if not path:
        return value
    if not isinstance(value, dict):
        return MISSING
    parts = path.split(".")
    for taken in range(len(parts), 0, -1):
        key = ".".join(parts[:taken])
        if key in value:
            return dig(value[key], ".".join(parts[taken:]))
    return MISSING
