"""Small numbers for long names, given within the transaction that needs them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import func, insert, select, tuple_

from mlenv_operator.cost.facts import Attribution
from mlenv_operator.ledger import schema
from mlenv_operator.ledger.schema import FACETS, MACHINES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from sqlalchemy import Connection, Row, Table

    from mlenv_operator.cost.facts import Node

ATTRIBUTION: Final = tuple(field.name for field in fields(Attribution))
CHUNK: Final = 500
"""So many parameters at most go into one `IN`: SQLite has a limit, and plans of one size are kept."""


def chunks(items: Iterable[Any], size: int = CHUNK) -> Iterator[list[Any]]:
    """The items in lists of at most this size."""
    all_ = list(items)
    for start in range(0, len(all_), size):
        yield all_[start : start + size]


def next_id(connection: Connection, table: Table) -> int:
    """The number after the largest. Only one writes, so nobody else can take it."""
    return int(connection.execute(select(func.coalesce(func.max(table.c.id), 0))).scalar_one()) + 1


def find(connection: Connection, table: Table, column: str, values: Collection[Any]) -> dict[Any, int]:
    """Numbers by name, of those names that have one."""
    found: dict[Any, int] = {}
    for some in chunks(values):
        query = select(table.c[column], table.c.id).where(table.c[column].in_(some))
        found.update((row[0], row[1]) for row in connection.execute(query))
    return found


def number_uids(connection: Connection, uids: Iterable[str]) -> dict[str, int]:
    """A number for each; new ones in the order of their names."""
    wanted = sorted(set(uids))
    found: dict[str, int] = find(connection, schema.uid, "uid", wanted)
    new = [one for one in wanted if one not in found]
    if new:
        first = next_id(connection, schema.uid)
        rows = [{"id": first + place, "uid": one} for place, one in enumerate(new)]
        connection.execute(insert(schema.uid), rows)
        found.update((one, first + place) for place, one in enumerate(new))
    return found


@lru_cache(8192)
def digest_of(attribution: Attribution) -> bytes:
    """What two attributions have in common only when they are equal."""
    values = [getattr(attribution, name) for name in ATTRIBUTION]
    return hashlib.sha256(json.dumps(values, separators=(",", ":")).encode()).digest()[:16]


def number_attributions(
    connection: Connection, attributions: Iterable[Attribution]
) -> dict[Attribution, int]:
    """A number for each, kept whole the first time it is seen."""
    by_digest = {digest_of(one): one for one in attributions}
    found = find(connection, schema.attribution, "digest", by_digest)
    new = sorted((by_digest[key], key) for key in by_digest if key not in found)
    if new:
        jobs = number_uids(connection, (one.job_uid for one, _ in new if one.job_uid))
        facets = _number_facets(connection, (one for one, _ in new))
        first = next_id(connection, schema.attribution)
        rows = [
            {
                **{name: getattr(one, name) for name in ATTRIBUTION},
                "labels": json.dumps(dict(one.labels)),
                "id": first + place,
                "digest": key,
                "job_id": jobs.get(one.job_uid, 0),
                "facet_id": facets[facet_of(one)],
            }
            for place, (one, key) in enumerate(new)
        ]
        connection.execute(insert(schema.attribution), rows)
        found.update((row["digest"], row["id"]) for row in rows)
    return {one: found[key] for key, one in by_digest.items()}


def facet_of(attribution: Attribution) -> tuple[str, ...]:
    """The attribution without its job."""
    return tuple(getattr(attribution, name) for name in FACETS)


def machine_of(node: Node) -> tuple[str, ...]:
    """The node without its name."""
    return tuple(getattr(node, name) for name in MACHINES)


def _number_facets(connection: Connection, attributions: Iterable[Attribution]) -> dict[tuple[str, ...], int]:
    return _number_tuples(connection, schema.facet, FACETS, map(facet_of, attributions))


def number_machines(connection: Connection, nodes: Iterable[Node]) -> dict[tuple[str, ...], int]:
    """A number for each kind of node."""
    return _number_tuples(connection, schema.machine, MACHINES, map(machine_of, nodes))


def _number_tuples(
    connection: Connection, table: Table, columns: Sequence[str], values: Iterable[tuple[str, ...]]
) -> dict[tuple[str, ...], int]:
    wanted = sorted(set(values))
    found: dict[tuple[str, ...], int] = {}
    for some in chunks(wanted, CHUNK // len(columns)):
        key = tuple_(*(table.c[name] for name in columns))
        for row in connection.execute(select(table).where(key.in_(some))).mappings():
            found[tuple(row[name] for name in columns)] = row["id"]
    new = [one for one in wanted if one not in found]
    if new:
        first = next_id(connection, table)
        rows = [{"id": first + n, **dict(zip(columns, one, strict=True))} for n, one in enumerate(new)]
        connection.execute(insert(table), rows)
        found.update((one, first + n) for n, one in enumerate(new))
    return found


def attribution_from(row: Row[Any]) -> Attribution:
    """As it was stored."""
    return Attribution(
        namespace=row.namespace,
        job=row.job,
        job_uid=row.job_uid,
        team=row.team,
        model=row.model,
        use_case=row.use_case,
        user=row.user,
        queue=row.queue,
        labels=tuple(sorted(json.loads(row.labels).items())),
    )
