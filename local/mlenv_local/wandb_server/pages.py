"""Connections: a page of a list, with cursors that go on where a page ended."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any, TypeVar

from mlenv_local.wandb_server.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    T = TypeVar("T")

LARGEST = 10_000


def connection(nodes: Sequence[Any]) -> dict[str, Any]:
    """Everything on one page."""
    return page(nodes, str, lambda node: node, None, None)


def page(
    items: Sequence[T],
    key: Callable[[T], str],
    view: Callable[[T], Any],
    first: int | None,
    after: str | None,
) -> dict[str, Any]:
    """The items behind the cursor `after`, at most `first`.

    A cursor holds position and key of the last item seen: if items before it have come or gone since, the key
    finds the place, and if it is itself gone, the position does.
    """
    start = _start(items, key, after)
    end = min(len(items), start + min(first if first is not None else LARGEST, LARGEST))
    edges = [
        {"node": view(item), "cursor": _cursor(position, key(item))}
        for position, item in enumerate(items[start:end], start)
    ]
    return {
        "edges": edges,
        "pageInfo": {
            "startCursor": edges[0]["cursor"] if edges else None,
            "endCursor": edges[-1]["cursor"] if edges else None,
            "hasNextPage": end < len(items),
            "hasPreviousPage": start > 0,
        },
        "totalCount": len(items),
    }


def _cursor(position: int, key: str) -> str:
    return base64.urlsafe_b64encode(f"{position}:{key}".encode()).decode()


def _start(items: Sequence[T], key: Callable[[T], str], after: str | None) -> int:
    if not after:
        return 0
    try:
        position, _, last = base64.urlsafe_b64decode(after).decode().partition(":")
        expected = int(position)
    except (binascii.Error, UnicodeDecodeError, ValueError) as error:
        raise Refused(f"{after!r} is no cursor of this server.") from error
    if expected < len(items) and key(items[expected]) == last:
        return expected + 1
    found = (at for at, item in enumerate(items) if key(item) == last)
    return next(found, expected - 1) + 1
