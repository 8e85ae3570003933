"""Which series counters have: as many as are bearable, and the rest together under `__other__`.

Who is shown on its own stays so, and who was put together with others stays there: a counter that moved
from one series to another would go back in the first. So the list is closed, for good, when a family
overflows, and who comes later is added to the others where it is counted: neither the page nor the table of
counters grows.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import delete, select

from mlenv_operator.ledger import remarks, schema

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sqlalchemy import Connection

LIMITS: Final = {"jobs": 20_000, "models": 1_000, "nodes": 2_000}
"""Series of a family that are shown on their own. A scrape of 100,000 samples is what one operator bears."""
OTHER: Final = "__other__"
KEPT: Final = frozenset({"category", "capacity_type"})
"""Labels with few values, which what is put together keeps."""
_PREFIX: Final = "admitted:"


@dataclass(frozen=True, slots=True)
class Admitted:
    """Those of one family that are shown on their own; None: all are."""

    digests: frozenset[str] | None = None

    def __contains__(self, labels: str) -> bool:
        return self.digests is None or _digest(labels) in self.digests

    def place(self, labels: str) -> str:
        """Under which labels this series is shown."""
        if labels in self:
            return labels
        known = json.loads(labels)
        return text({name: value if name in KEPT else OTHER for name, value in known.items()})


def text(labels: Mapping[str, str]) -> str:
    """Labels as they are kept."""
    return json.dumps(labels, sort_keys=True, ensure_ascii=False)


def lists(connection: Connection) -> dict[str, Admitted]:
    """By family, who is shown on its own; nobody is refused yet where the list is not closed."""
    at = schema.meta.c
    query = select(at.key, at.value).where(at.key.startswith(_PREFIX))
    closed = {row.key.removeprefix(_PREFIX): row.value for row in connection.execute(query)}
    return {
        family: Admitted(frozenset(json.loads(closed[family])) if family in closed else None)
        for family in LIMITS
    }


def close(
    connection: Connection,
    open_: Mapping[str, Admitted],
    families: Mapping[str, Collection[str]],
    shown: Collection[tuple[str, str]],
) -> dict[str, Admitted]:
    """Close the lists that overflow by now; those in `shown`, as (family, labels), are on them."""
    found = dict(open_)
    for family, labels in families.items():
        if open_[family].digests is None and len(labels) > LIMITS[family]:
            before = [one for one in sorted(labels) if (family, one) in shown]
            new = [one for one in sorted(labels) if (family, one) not in shown]
            chosen = [*before, *new[: max(0, LIMITS[family] - len(before))]]
            found[family] = Admitted(frozenset(map(_digest, chosen)))
            remarks.put(connection, _PREFIX + family, json.dumps(sorted(map(_digest, chosen))))
    return found


def reopen(connection: Connection) -> None:
    """Let everybody in again: only when all counters begin anew at zero."""
    connection.execute(delete(schema.meta).where(schema.meta.c.key.startswith(_PREFIX)))


def _digest(labels: str) -> str:
    return hashlib.sha256(labels.encode()).hexdigest()[:16]
