"""Pages in an order that insertions and deletions between two of them do not confuse. Pure."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from mlenv_local.wandb_server.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")
LARGEST = 10_000
USUAL = 50


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some of many."""

    items: list[T]
    total: int
    end_cursor: str | None
    more: bool

    def connection(self, edges: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        """As a GraphQL connection; edges only where they have more than a node."""
        return {
            "totalCount": self.total,
            "pageInfo": {"endCursor": self.end_cursor, "hasNextPage": self.more},
            "edges": edges if edges is not None else [{"node": item} for item in self.items],
        }


def page(
    items: Iterable[T],
    key: Callable[[T], tuple[Any, int]],
    *,
    first: int | None,
    after: str | None,
    descending: bool = False,
) -> Page[T]:
    """The items behind the cursor, in the order of their keys (a sort value and a number that is unique)."""
    ordered = sorted(items, key=key, reverse=descending)
    start = 0
    if after:
        last = decode(after)
        passed = (index for index, item in enumerate(ordered) if _behind(key(item), last, descending=descending))
        start = next(passed, len(ordered))
    shown = ordered[start : start + size(first)]
    more = start + len(shown) < len(ordered)
    return Page(shown, len(ordered), encode(key(shown[-1])) if shown else after, more)


def size(first: int | None) -> int:
    """How many a page has."""
    return USUAL if first is None else max(1, min(first, LARGEST))


def encode(value: Any) -> str:
    """An opaque cursor."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


def decode(cursor: str) -> Any:
    """What was put into a cursor; lists come back as tuples."""
    try:
        value = json.loads(base64.urlsafe_b64decode(cursor))
    except (binascii.Error, ValueError) as error:
        raise Refused(f"{cursor!r} is no cursor of this server.") from error
    return tuple(value) if isinstance(value, list) else value


def _behind(key: tuple[Any, int], last: tuple[Any, int], *, descending: bool) -> bool:
    return key < last if descending else key > last
