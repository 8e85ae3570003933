"""Meters, kept from one telling to the next: what is not a fact yet, and must not be told twice."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite

from mlenv_operator.cost.facts import Category
from mlenv_operator.cost.observe_spent import Meter
from mlenv_operator.ledger import schema
from mlenv_operator.ledger.names import chunks
from mlenv_operator.ledger.schema import KINDS, WORDS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from sqlalchemy import Connection


def read(connection: Connection) -> Iterable[Meter]:
    """All of them."""
    query = select(schema.meter, schema.uid.c.uid).join(schema.uid, schema.uid.c.id == schema.meter.c.id)
    for row in connection.execute(query):
        doing = Category(WORDS[row.doing]) if row.doing else None
        told, heard = tuple(json.loads(row.told)), tuple(json.loads(row.heard))
        yield Meter(row.uid, row.attempt, row.begun, row.at, told, heard, row.step, doing, row.marks)


def keep(connection: Connection, meters: Sequence[Meter], numbers: Mapping[str, int]) -> None:
    """Keep these in the place of the ones before."""
    rows = [_row(one, numbers[one.pod_uid]) for one in {one.pod_uid: one for one in meters}.values()]
    if not rows:
        return
    dialect: Any = sqlite if connection.dialect.name == "sqlite" else postgresql
    insert = dialect.insert(schema.meter)
    new = {name: insert.excluded[name] for name in rows[0] if name != "id"}
    connection.execute(insert.on_conflict_do_update(index_elements=["id"], set_=new), rows)


def drop(connection: Connection, pod_ids: Collection[int]) -> None:
    """Forget those of pods that have ended."""
    for some in chunks(pod_ids):
        connection.execute(delete(schema.meter).where(schema.meter.c.id.in_(some)))


def _row(meter: Meter, number: int) -> dict[str, Any]:
    return {
        "id": number,
        "attempt": meter.attempt,
        "begun": meter.begun,
        "at": meter.at,
        "told": json.dumps(meter.told),
        "heard": json.dumps(meter.heard),
        "step": meter.step,
        "doing": KINDS[meter.doing] if meter.doing else 0,
        "marks": meter.marks,
    }
