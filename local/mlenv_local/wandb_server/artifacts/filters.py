"""Filters in MongoDB's form and orders, as the public API sends them. Pure."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from mlenv_local.wandb_server.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Row = Mapping[str, Any]
    Test = Callable[[Row], bool]

_DEEPEST = 20


def parse(text: str | None) -> Test:
    """The test that a JSON filter means; without one, everything passes."""
    if not text:
        return lambda _: True
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise Refused("A filter is a JSON object.") from error
    return _expression(raw, 0)


def _expression(raw: Any, depth: int) -> Test:
    if not isinstance(raw, dict) or depth > _DEEPEST:
        raise Refused(f"A filter is an object of fields and operators, not {raw!r}.")
    return _all([_clause(key, value, depth) for key, value in raw.items()])


def _clause(key: str, value: Any, depth: int) -> Test:
    if key == "$not":
        inner = _expression(value, depth + 1)
        return lambda row: not inner(row)
    if key in {"$and", "$or", "$nor"}:
        return _joined(key, [_expression(one, depth + 1) for one in value])
    if key.startswith("$"):
        raise Refused(f"The filter operator {key} is not served.")
    matches = _operand(value)
    return lambda row: matches(_values(row, key))


def _joined(key: str, inner: list[Test]) -> Test:
    if key == "$and":
        return _all(inner)
    if key == "$or":
        return lambda row: any(test(row) for test in inner)
    return lambda row: not any(test(row) for test in inner)


def _all(inner: Sequence[Test]) -> Test:
    return lambda row: all(test(row) for test in inner)


def _operand(value: Any) -> Callable[[list[Any]], bool]:
    """A test of the values that a field has."""
    if not isinstance(value, dict):
        return lambda found: _equal(found, value)
    tests = [_operator(name, operand) for name, operand in value.items()]
    return lambda found: all(test(found) for test in tests)


def _operator(name: str, operand: Any) -> Callable[[list[Any]], bool]:
    if name == "$not":
        inner = _operand(operand)
        return lambda found: not inner(found)
    if name == "$exists":
        return lambda found: any(one is not None for one in found) == bool(operand)
    if name == "$all":
        return lambda found: all(_equal(found, one) for one in operand)
    if name in {"$in", "$nin"}:
        return lambda found: any(_equal(found, one) for one in operand) == (name == "$in")
    if name in {"$eq", "$ne"}:
        return lambda found: _equal(found, operand) == (name == "$eq")
    test = _compared(name, operand)
    return lambda found: any(test(one) for one in found if one is not None)


def _compared(name: str, operand: Any) -> Callable[[Any], bool]:
    if name == "$regex":
        pattern = _pattern(operand)
        return lambda one: pattern.search(str(one)) is not None
    if name == "$contains":
        return lambda one: str(operand) in str(one)
    if name not in _ORDERED:
        raise Refused(f"The filter operator {name} is not served.")
    compare = _ORDERED[name]
    return lambda one: _comparable(one, operand) and compare(one, operand)


_ORDERED: dict[str, Callable[[Any, Any], bool]] = {
    "$lt": lambda one, other: bool(one < other),
    "$lte": lambda one, other: bool(one <= other),
    "$gt": lambda one, other: bool(one > other),
    "$gte": lambda one, other: bool(one >= other),
}


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise Refused(f"{text!r} is no regular expression: {error}.") from error


def _comparable(one: Any, other: Any) -> bool:
    numbers = (int, float)
    return (isinstance(one, numbers) and isinstance(other, numbers)) or (
        isinstance(one, str) and isinstance(other, str)
    )


def _equal(found: list[Any], wanted: Any) -> bool:
    return (wanted is None and not found) or any(one == wanted for one in found)


def _values(row: Row, key: str) -> list[Any]:
    """All values of a field, spelled with underscores or in camel case; dots lead into objects."""
    name, _, rest = key.partition(".")
    value = row.get(snake(name))
    for part in rest.split(".") if rest else ():
        value = value.get(part) if isinstance(value, dict) else None
    return list(value) if isinstance(value, list | tuple) else [value]


def order(text: str | None, fields: Mapping[str, str], default: str) -> tuple[str, bool]:
    """Field and whether it descends, of `-created_at`; `fields` maps what may be asked for to what there is."""
    text = text or default
    name = snake(text.lstrip("+-"))
    if name not in fields:
        raise Refused(f"Cannot order by {name!r}; by {', '.join(sorted(fields))}.")
    return fields[name], text.startswith("-")


def snake(name: str) -> str:
    """createdAt -> created_at."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()
