"""Closing a month, after which what is booked in it never changes, and its Parquet file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import and_, func, insert, or_, select, update

from mlenv_operator.cost.facts import HOUR
from mlenv_operator.ledger import schema
from mlenv_operator.ledger.calendar import hours_of, month_at, show_hour, show_month
from mlenv_operator.ledger.errors import LedgerRefused
from mlenv_operator.ledger.schema import AMOUNTS, FACETS, FIRST_USE, MACHINES, WORDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from sqlalchemy import ColumnElement, Connection, Row, Select

    from mlenv_operator.cost.facts import Micros
    from mlenv_operator.ledger.database import Database

BATCH: Final = 50_000
"""Rows that are in memory at a time, and in a row group."""
WORDY: Final = pa.dictionary(pa.int32(), pa.string())
SCHEMA: Final = pa.schema(
    [
        ("hour", pa.timestamp("us", tz="UTC")),
        ("node", WORDY),
        ("node_uid", WORDY),
        *((name, WORDY) for name in MACHINES),
        ("pod", WORDY),
        ("pod_uid", WORDY),
        ("job", WORDY),
        ("job_uid", WORDY),
        *((name, WORDY) for name in FACETS),
        ("labels", WORDY),
        ("category", WORDY),
        ("of_node", pa.bool_()),
        ("attempt", pa.int32()),
        ("price_id", WORDY),
        ("revision", pa.int32()),
        ("reason", WORDY),
        ("seq", pa.int64()),
        *((name, pa.int64()) for name in AMOUNTS),
    ]
)
"""`cost` and `list_cost` in nanodollars, `held` in microseconds, `of_node`: the category is a use of the node."""


@dataclass(frozen=True, slots=True)
class Month:
    """A closed month: how much is booked in it."""

    month: int
    rows: int
    cost: int
    list_cost: int


@dataclass(frozen=True, slots=True)
class Exported:
    """A month's file. `digest` is of its content, and the same however the file is made."""

    path: Path
    rows: int
    digest: str
    bytes: int


def close(connection: Connection, month: int, now: Micros) -> Month:
    """Close the month, or say why not. Closing it again changes nothing."""
    if found := _closed(connection, month):
        return found
    if month_at(now) <= month:
        raise LedgerRefused(f"{show_month(month)} is not over yet.")
    _refuse_open(connection, month)
    at = schema.settlement.c
    sums = (func.coalesce(func.sum(at[name]), 0) for name in ("rows", "cost", "list_cost"))
    rows, cost, list_cost = (
        int(one) for one in connection.execute(select(*sums).where(at.booked == month)).one()
    )
    values = {"rows": rows, "cost": cost, "list_cost": list_cost}
    connection.execute(insert(schema.month).values(month=month, closed_at=now, **values))
    return Month(month, **values)


def _closed(connection: Connection, month: int) -> Month | None:
    row = connection.execute(select(schema.month).where(schema.month.c.month == month)).first()
    return Month(row.month, row.rows, row.cost, row.list_cost) if row else None


def _refuse_open(connection: Connection, month: int) -> None:
    node, dirty = schema.node.c, schema.dirty.c
    first, end = hours_of(month)
    living = or_(node.deleted.is_(None), node.deleted // HOUR >= node.next_hour)
    query = select(node.name, node.next_hour).where(node.next_hour < end, node.created < end * HOUR, living)
    if row := connection.execute(query.order_by(node.next_hour, node.id).limit(1)).first():
        raise LedgerRefused(
            f"{show_month(month)} cannot be closed: the hour {show_hour(row.next_hour)} of node {row.name} is open. "
            "Hours close a few minutes after their end, or hours later when the end of a pod is missing."
        )
    query = select(dirty.hour, node.name).join(schema.node, node.id == dirty.node_id)
    late = query.where(dirty.hour >= first, dirty.hour < end).order_by(dirty.hour).limit(1)
    if row := connection.execute(late).first():
        raise LedgerRefused(
            f"{show_month(month)} cannot be closed: the hour {show_hour(row.hour)} of node {row.name} waits for a "
            "correction. Try again once the operator has settled."
        )


def export(database: Database, month: int, folder: Path) -> Exported:
    """Write `month=YYYY-MM/charges.parquet`; the same content each time, or a refusal."""
    path = folder / f"month={show_month(month)}" / "charges.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    with database.reading() as connection:
        if not _closed(connection, month):
            raise LedgerRefused(f"{show_month(month)} is not closed: only what never changes is exported.")
        rows, digest = _write(connection, month, new)
    recorded = _record(database, month, digest, hashlib.sha256(new.read_bytes()).digest())
    if recorded != digest:
        new.unlink()
        raise LedgerRefused(
            f"The charges of {show_month(month)} are not those that were exported before: content "
            f"{digest.hex()[:16]}, recorded {recorded.hex()[:16]}. Closed months never change: is this a restored or "
            f"another ledger? {path} is left as it is."
        )
    new.replace(path)
    return Exported(path, rows, digest.hex(), path.stat().st_size)


def _record(database: Database, month: int, digest: bytes, file_digest: bytes) -> bytes:
    """Keep the content's digest the first time; the one that is recorded."""
    at = schema.month.c
    with database.reading() as connection:
        known = connection.execute(select(at.digest).where(at.month == month)).scalar()
    if known is not None:
        return bytes(known)
    with database.changing() as connection:
        values = {"digest": digest, "file_digest": file_digest}
        connection.execute(update(schema.month).where(at.month == month).values(**values))
    return digest


def _write(connection: Connection, month: int, path: Path) -> tuple[int, bytes]:
    digest, count = hashlib.sha256(), 0
    with pq.ParquetWriter(path, SCHEMA, compression="zstd", compression_level=9) as writer:
        for rows in _batches(connection, month):
            values = [_values(row) for row in rows]
            for one in values:
                digest.update(repr(one).encode())
            columns = [
                pa.array(column, field.type)
                for column, field in zip(zip(*values, strict=True), SCHEMA, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=SCHEMA), row_group_size=BATCH)
            count += len(values)
    return count, digest.digest()


def _batches(connection: Connection, month: int) -> Iterator[Sequence[Row[Any]]]:
    streaming = connection.execution_options(yield_per=BATCH)
    yield from streaming.execute(_query(schema.settlement.c.booked == month)).partitions()


def _query(where: ColumnElement[bool]) -> Select[Any]:
    charge, at, node = schema.charge, schema.settlement.c, schema.node.c
    uid, node_uid = schema.uid, schema.uid.alias("node_uid")
    whom = schema.attribution.c
    return (
        select(
            at.hour, node.name, node_uid.c.uid, *(node[name] for name in MACHINES),
            schema.pod.c.name, uid.c.uid, whom.job, whom.job_uid, *(whom[name] for name in FACETS), whom.labels,
            charge.c.kind, charge.c.attempt, schema.price.c.price_id, at.revision, at.reason, at.seq,
            *(charge.c[name] for name in AMOUNTS),
        )
        .select_from(schema.settlement)
        .join(charge, and_(*(charge.c[key] == at[key] for key in ("node_id", "hour", "revision"))))
        .join(schema.node, node.id == at.node_id)
        .join(node_uid, node_uid.c.id == at.node_id)
        .outerjoin(schema.pod, schema.pod.c.id == charge.c.pod_id)
        .outerjoin(uid, uid.c.id == charge.c.pod_id)
        .outerjoin(schema.attribution, whom.id == charge.c.attribution_id)
        .outerjoin(schema.price, schema.price.c.id == charge.c.price_id)
        .where(where)
        .order_by(at.booked, at.hour, at.node_id, at.revision, charge.c.n)
    )  # fmt: skip


KIND_AT: Final = 3 + len(MACHINES) + 4 + len(FACETS) + 1


def _values(row: Row[Any]) -> tuple[Any, ...]:
    """In the order of the file's columns."""
    hour, *names = row[:KIND_AT]
    kind, attempt, price_id, *rest = row[KIND_AT:]
    words = ["" if one is None else one for one in names]
    return (hour * HOUR, *words, str(WORDS[kind]), kind > FIRST_USE, attempt, price_id or "", *rest)
