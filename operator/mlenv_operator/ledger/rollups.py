"""Sums kept beside the charges, in the same transaction: by hour, day and job, and what counters show."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite

from mlenv_operator.ledger import admission, schema
from mlenv_operator.ledger.calendar import DAY
from mlenv_operator.ledger.names import chunks
from mlenv_operator.ledger.schema import AMOUNTS, FACETS, FIRST_USE, MACHINES, WORDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import Connection, Table

JOBS: Final = "jobs"
"""Counters of what pods cost: by namespace, team, use case, kind of node and category."""
MODELS: Final = "models"
NODES: Final = "nodes"
"""Counters of what nodes cost: allocated to pods, or by use."""
FAMILIES: Final = (JOBS, MODELS, NODES)
ALLOCATED: Final = "allocated"

Sums: TypeAlias = "dict[tuple[Any, ...], list[int]]"


class Amounts(NamedTuple):
    """Time held, devices times time, and money; differences may be negative."""

    held: int
    gpu_micros: int
    cost: int
    list_cost: int


class Place(NamedTuple):
    """Where a charge belongs, by numbers."""

    booked: int
    hour: int
    machine_id: int
    attribution_id: int
    kind: int


@dataclass(slots=True)
class Batch:
    """What a batch of charges adds up to, before it is written."""

    by_place: dict[Place, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0, 0, 0]))
    unpriced: dict[int, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0, 0, 0]))
    """By attribution, what has no price."""

    def add(self, place: Place, amounts: Sequence[int], *, priced: bool) -> None:
        """One charge more."""
        plus(self.by_place[place], amounts)
        if not priced:
            plus(self.unpriced[place.attribution_id], amounts)


def write(connection: Connection, sums: Batch) -> None:
    """Add the batch to every sum."""
    owners = _owners(connection, {one.attribution_id for one in sums.by_place} - {0})
    facets = labels(connection, schema.facet, FACETS, {facet for facet, _ in owners.values()})
    machines = labels(connection, schema.machine, MACHINES, {one.machine_id for one in sums.by_place})
    shown = admission.lists(connection)
    hours, days, jobs, unpriced, counters = (_zeros() for _ in range(5))
    for place, amounts in sums.by_place.items():
        facet_id, job_id = owners.get(place.attribution_id, (0, 0))
        rest = (facet_id, place.machine_id, place.kind)
        plus(hours[(place.booked, place.hour, *rest)], amounts)
        plus(days[(place.booked, place.hour // DAY, *rest)], amounts)
        if job_id:
            plus(jobs[(job_id, place.kind)], amounts)
        for family, one in _counters(facets.get(facet_id, {}), machines[place.machine_id], place.kind):
            plus(counters[family, shown[family].place(one)], amounts)
    for attribution_id, amounts in sums.unpriced.items():
        if job_id := owners.get(attribution_id, (0, 0))[1]:
            plus(unpriced[job_id,], amounts)
    for table, found in (
        (schema.rollup_hour, hours),
        (schema.rollup_day, days),
        (schema.job_total, jobs),
        (schema.job_unpriced, unpriced),
        (schema.counter, counters),
    ):
        _upsert(connection, table, found)


def _zeros() -> Sums:
    return defaultdict(lambda: [0, 0, 0, 0])


def plus(into: list[int], more: Iterable[int]) -> None:
    """Add number by number."""
    for place, one in enumerate(more):
        into[place] += one


def _owners(connection: Connection, numbers: Iterable[int]) -> dict[int, tuple[int, int]]:
    """Facet and job of attributions."""
    at = schema.attribution.c
    found: dict[int, tuple[int, int]] = {}
    for some in chunks(numbers):
        query = select(at.id, at.facet_id, at.job_id).where(at.id.in_(some))
        found.update((row[0], (row[1], row[2])) for row in connection.execute(query))
    return found


def labels(
    connection: Connection, table: Table, columns: Iterable[str], numbers: Iterable[int]
) -> dict[int, dict[str, str]]:
    """What these numbers stand for."""
    found = {}
    for some in chunks(numbers):
        for row in connection.execute(select(table).where(table.c.id.in_(some))).mappings():
            found[row["id"]] = {name: row[name] for name in columns}
    return found


def _counters(facet: Mapping[str, str], machine: Mapping[str, str], kind: int) -> Iterable[tuple[str, str]]:
    """The counters to which a charge adds."""
    node = {name: machine[name] for name in ("instance_type", "capacity_type")}
    use = str(WORDS[kind]) if kind > FIRST_USE else ALLOCATED
    yield NODES, admission.text({**node, "category": use})
    if kind < FIRST_USE:
        who = {name: facet.get(name, "") for name in ("namespace", "team", "use_case", "model")}
        yield MODELS, admission.text({name: who[name] for name in ("team", "model")})
        del who["model"]
        yield (
            JOBS,
            admission.text({**who, **node, "gpu_model": machine["gpu_model"], "category": str(WORDS[kind])}),
        )


def counters_of(
    attribution: Mapping[str, str], machine: Mapping[str, str], kind: int
) -> list[tuple[str, str]]:
    """The counters to which a charge of an open hour will add, as (family, labels)."""
    return list(_counters(attribution, machine, kind))


def _upsert(connection: Connection, table: Table, sums: Sums) -> None:
    """Add to the rows that are there, make those that are not."""
    if not sums:
        return
    keys = [column.name for column in table.primary_key]
    zeros = {column.name: 0 for column in table.columns if column.name not in {*keys, *AMOUNTS}}
    rows = [
        {**dict(zip(keys, key, strict=True)), **dict(zip(AMOUNTS, sums[key], strict=True)), **zeros}
        for key in sorted(sums)
    ]
    dialect: Any = sqlite if connection.dialect.name == "sqlite" else postgresql
    statement = dialect.insert(table)
    added = {name: table.c[name] + statement.excluded[name] for name in AMOUNTS}
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=added), rows)
