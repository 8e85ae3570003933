"""Where prices of nodes come from, as the ledger needs them, and how it keeps the rows that it used."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Protocol

from sqlalchemy import insert

from mlenv_operator.ledger import names, schema

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import Connection

    from mlenv_operator.cost.facts import Micros, Node
    from mlenv_operator.cost.segments import Segment


class PriceSource(Protocol):
    """The price book, asked by the ledger."""

    def segments(self, node: Node, start: Micros, end: Micros) -> Sequence[Segment]:
        """What the node costs within [start, end); a stretch that is left out has no price."""

    def describe(self, price_id: str) -> Mapping[str, str | int]:
        """All of the price row, its source and its date, to be kept with the first charge that it made."""

    def version(self) -> str:
        """Another one whenever a price has changed: then hours without a price are looked at again."""


class NoPrices:
    """No price is known."""

    def segments(self, _node: Node, _start: Micros, _end: Micros) -> Sequence[Segment]:
        """None."""
        return ()

    def describe(self, _price_id: str) -> Mapping[str, str | int]:
        """Nothing."""
        return {}

    def version(self) -> str:
        """Never another."""
        return ""


def number_prices(connection: Connection, source: PriceSource, segments: Iterable[Segment]) -> dict[str, int]:
    """A number for each price, kept with what it says when it is first used; 0 for no price."""
    used = {one.price_id: one for one in segments if one.price_id}
    found: dict[str, int] = names.find(connection, schema.price, "price_id", used)
    new = sorted(price_id for price_id in used if price_id not in found)
    if new:
        first = names.next_id(connection, schema.price)
        rows = [
            {
                "id": first + place,
                "price_id": price_id,
                "list_nano_per_hour": used[price_id].list_nano_per_hour,
                "effective_nano_per_hour": used[price_id].effective_nano_per_hour,
                "body": json.dumps(dict(source.describe(price_id)), sort_keys=True),
            }
            for place, price_id in enumerate(new)
        ]
        connection.execute(insert(schema.price), rows)
        found.update((price_id, first + place) for place, price_id in enumerate(new))
    return {"": 0, **found}
