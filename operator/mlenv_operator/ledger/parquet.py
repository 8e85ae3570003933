"""Closed months as Parquet: their files, and questions answered from these alone, without the database."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from sqlalchemy import and_, select, update

from mlenv_operator.cost.facts import HOUR
from mlenv_operator.ledger import schema
from mlenv_operator.ledger.calendar import show_month
from mlenv_operator.ledger.errors import LedgerError, LedgerRefused
from mlenv_operator.ledger.months import closed
from mlenv_operator.ledger.rollups import Amounts
from mlenv_operator.ledger.schema import AMOUNTS, FACETS, FIRST_USE, MACHINES, WORDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from sqlalchemy import ColumnElement, Connection, Row, Select

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
"""Costs in nanodollars, `held` in microseconds; `of_node`: the category is a use of the node."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A month's file. `digest` is of its content, and the same however the file is made."""

    path: Path
    rows: int
    digest: str
    bytes: int


def export(database: Database, month: int, folder: Path) -> Exported:
    """Write `month=YYYY-MM/charges.parquet`; the same content each time, or a refusal."""
    path = folder / f"month={show_month(month)}" / "charges.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    with database.reading() as connection:
        if not closed(connection, month):
            raise LedgerRefused(f"{show_month(month)} is not closed: only what never changes is exported.")
        rows, digest = _write(connection, month, new)
    recorded = _record(database, month, digest, hashlib.sha256(new.read_bytes()).digest())
    if recorded != digest:
        new.unlink()
        raise LedgerRefused(
            f"The charges of {show_month(month)} are not those that were exported before: content "
            f"{digest.hex()[:16]}, recorded {recorded.hex()[:16]}. Closed months never change: is this a "
            f"restored or another ledger? {path} is left as it is."
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
            schema.pod.c.name, uid.c.uid, whom.job, whom.job_uid, *(whom[name] for name in FACETS),
            whom.labels, charge.c.kind, charge.c.attempt, schema.price.c.price_id,
            at.revision, at.reason, at.seq, *(charge.c[name] for name in AMOUNTS),
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


def group(folder: Path, by: Sequence[str], month: int) -> dict[tuple[str, ...], Amounts]:
    """What is booked in the month, by anything."""
    path = folder / f"month={show_month(month)}" / "charges.parquet"
    if not path.exists():
        raise LedgerError(f"There is no {path}: export the month first.")
    if unknown := [name for name in by if name not in SCHEMA.names]:
        raise LedgerError(f"The file has no column {', '.join(unknown)}; it has {', '.join(SCHEMA.names)}.")
    table = ds.dataset(path, format="parquet").to_table(columns=[*by, *AMOUNTS])
    # Each row group has a dictionary of its own.
    table = table.unify_dictionaries()
    sums = table.group_by(list(by)).aggregate([(name, "sum") for name in AMOUNTS]).to_pydict()
    keys = zip(*(map(str, sums[name]) for name in by), strict=True)
    amounts = zip(*(sums[f"{name}_sum"] for name in AMOUNTS), strict=True)
    return {key: Amounts(*one) for key, one in sorted(zip(keys, amounts, strict=True))}
