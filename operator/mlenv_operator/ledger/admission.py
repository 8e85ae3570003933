"""Which series counters have: as many as are bearable, and the rest together under `__other__`.

Who is shown on its own stays so, and who was put together with others stays there: a counter that moved
from one series to another would go back in the first. So the list is closed, for good, when a family
overflows, and who comes later is added to the others where it is counted: neither the page nor the table of
counters grows.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import delete, func, insert, or_, select

from mlenv_operator.ledger import remarks, schema
from mlenv_operator.ledger.names import chunks

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sqlalchemy import Connection

LIMITS: Final = {"jobs": 20_000, "models": 1_000, "nodes": 2_000}
"""Series of a family that are shown on their own. A scrape of 100,000 samples is what one operator bears."""
OTHER: Final = "__other__"
KEPT: Final = frozenset({"category", "capacity_type"})
"""Labels with few values, which what is put together keeps."""
_PREFIX: Final = "admitted:"
_NUMBERS: Final = tuple(one.name for one in schema.counter.columns if not one.primary_key)


@dataclass(frozen=True, slots=True)
class Admitted:
    """Those of one family that are shown on their own; None: all are."""

    digests: frozenset[str] | None = None
    others: int = 0
    """How many were not, when the list was closed; who came later is not counted."""

    def place(self, labels: str) -> str:
        """Under which labels this series is counted."""
        if self.digests is None or _digest(labels) in self.digests:
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
    found = dict.fromkeys(LIMITS, Admitted())
    for row in connection.execute(query):
        known = json.loads(row.value)
        found[row.key.removeprefix(_PREFIX)] = Admitted(frozenset(known["digests"]), known["others"])
    return found


def closed(connection: Connection, coming: Collection[tuple[str, str]]) -> dict[str, Admitted]:
    """The lists, those closed that overflow with what is coming, as (family, labels)."""
    at, found = schema.counter.c, lists(connection)
    there = {
        row[0]: row[1] for row in connection.execute(select(at.family, func.count()).group_by(at.family))
    }
    for family, limit in LIMITS.items():
        new = {labels for one, labels in coming if one == family}
        if found[family].digests is None and there.get(family, 0) + len(new) > limit:
            found[family] = _close(connection, family, new)
    return found


def _close(connection: Connection, family: str, coming: Collection[str]) -> Admitted:
    """Close this list if it overflows: those that were shown are on it in any case."""
    at = schema.counter.c
    of_it = select(at.labels).where(at.family == family)
    was_shown = or_(at.shown_gpu_micros > 0, at.shown_cost > 0, at.shown_list_cost > 0)
    shown = set(connection.execute(of_it.where(was_shown)).scalars())
    rest = sorted({*connection.execute(of_it).scalars(), *coming} - shown)
    free = max(0, LIMITS[family] - len(shown))
    if len(rest) <= free:
        return Admitted()
    digests = frozenset(map(_digest, {*shown, *rest[:free]}))
    late = [labels for labels in rest[free:] if Admitted(digests).place(labels) != labels]
    value = json.dumps({"digests": sorted(digests), "others": len(late)})
    remarks.put(connection, _PREFIX + family, value)
    found = Admitted(digests, len(late))
    _move(connection, family, late, found)
    return found


def _move(connection: Connection, family: str, those: Collection[str], to: Admitted) -> None:
    """Add what was counted for these, and never shown, to the others."""
    at = schema.counter.c
    sums: dict[str, list[int]] = defaultdict(lambda: [0] * len(_NUMBERS))
    # The others may be there, from before counters began anew.
    for some in chunks({*those, *map(to.place, those)}):
        where = at.family == family, at.labels.in_(some)
        for row in connection.execute(select(schema.counter).where(*where)).mappings():
            numbers = sums[to.place(row["labels"])]
            for place, name in enumerate(_NUMBERS):
                numbers[place] += row[name]
        connection.execute(delete(schema.counter).where(*where))
    for labels, numbers in sorted(sums.items()):
        values = {"family": family, "labels": labels, **dict(zip(_NUMBERS, numbers, strict=True))}
        connection.execute(insert(schema.counter).values(**values))


def reopen(connection: Connection) -> None:
    """Let everybody in again: only when all counters begin anew at zero."""
    connection.execute(delete(schema.meta).where(schema.meta.c.key.startswith(_PREFIX)))


def _digest(labels: str) -> str:
    return hashlib.sha256(labels.encode()).hexdigest()[:16]
