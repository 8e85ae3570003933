"""The tables, the same in SQLite and PostgreSQL. Times are microseconds; hours and days count from 1970.

Facts are kept under small numbers instead of their long names, because a job leaves many rows. All numbers
are given by the ledger itself, never by a sequence of the database, so that a crash leaves no trace in them.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    UniqueConstraint,
    text,
)

from mlenv_operator.cost.facts import Category, NodeUse

FOREVER: Final = 1 << 62
"""The `released` of a pod that was not released, so that one index finds who held a node."""
DONE: Final = 1 << 40
"""The `next_hour` of a node whose whole life is closed."""

KINDS: Final[dict[Category | NodeUse, int]] = {
    Category.STARTUP: 1,
    Category.INIT: 2,
    Category.PRODUCTIVE: 3,
    Category.DATA_WAIT: 4,
    Category.CHECKPOINT_SAVE: 5,
    Category.CHECKPOINT_RESTORE: 6,
    Category.EVAL: 7,
    Category.LOST_WORK: 8,
    Category.RECOVERY: 9,
    Category.HANG: 10,
    Category.DRAIN: 11,
    Category.UNKNOWN: 12,
    NodeUse.IDLE: 101,
    NodeUse.FRAGMENTED: 102,
    NodeUse.BOOTING: 103,
    NodeUse.DRAINING: 104,
    NodeUse.UNHEALTHY: 105,
    NodeUse.RESERVATION_UNUSED: 106,
    NodeUse.UNATTRIBUTED: 107,
}
"""What a row was for, as stored. Numbers are never given anew."""
WORDS: Final = {number: kind for kind, number in KINDS.items()}
FIRST_USE: Final = 100
"""Kinds above it are uses of a node, below it categories of a pod."""

tables = MetaData()
Big = BigInteger().with_variant(Integer, "sqlite")
"""In SQLite only a column that is called INTEGER is the row's own number, and needs no index."""
AMOUNTS: Final = ("held", "gpu_micros", "cost", "list_cost")
FACETS: Final = ("namespace", "team", "use_case", "model", "user", "queue")
MACHINES: Final = (
    "provider",
    "region",
    "zone",
    "instance_type",
    "capacity_type",
    "reservation",
    "gpu_model",
)


def _table(name: str, *columns: Any) -> Table:
    """A table whose rows lie in the order of their key, in SQLite too."""
    return Table(name, tables, *columns, sqlite_with_rowid=False)


def _key(name: str, type_: Any = Big) -> Column[Any]:
    return Column(name, type_, primary_key=True, autoincrement=False)


def _number(name: str, type_: Any = Big) -> Column[Any]:
    return Column(name, type_, nullable=False)


def _text(name: str) -> Column[Any]:
    return Column(name, String, nullable=False)


def _amounts() -> tuple[Column[Any], ...]:
    return tuple(_number(name) for name in AMOUNTS)


migration = _table("migration", _key("number"), _text("name"))
meta = _table("meta", _key("key", String), _text("value"))
fence = _table("fence", _key("id"), _number("term"), _text("holder"))

uid = Table("uid", tables, _key("id"), Column("uid", String, nullable=False, unique=True))
"""Names of nodes, pods and jobs, by number."""
node = Table(
    "node",
    tables,
    _key("id"),
    *map(_text, ("name", "provider", "region", "zone", "instance_type", "capacity_type", "reservation")),
    _number("gpus"),
    _text("gpu_model"),
    *map(_number, ("cpu_milli", "memory_bytes", "created")),
    Column("deleted", Big),
    _number("machine_id"),
    _number("next_hour"),
    Index("node_next", "next_hour", "id"),
)
"""`next_hour`: all hours before it are closed."""
pod = Table(
    "pod",
    tables,
    _key("id"),
    _text("namespace"),
    _text("name"),
    *map(_number, ("job_id", "node_id", "gpus", "cpu_milli", "memory_bytes", "scheduled")),
    Column("started", Big),
    Column("finished", Big),
    _number("released"),
    _number("telemetry", SmallInteger),
    Index("pod_node", "node_id", "released"),
    Index("pod_job", "job_id"),
)
# What was said is a set: of two that contradict each other both stay, and `cost` chooses.
mark = _table(
    "mark",
    *map(_key, ("pod_id", "at", "sequence", "attempt")),
    _key("category", SmallInteger),
)
node_mark = _table("node_mark", *map(_key, ("node_id", "at")), _key("use", SmallInteger))
meter = Table(
    "meter",
    tables,
    _key("id"),
    *map(_number, ("attempt", "begun", "at")),
    *map(_text, ("told", "heard")),
    _number("step"),
    _number("doing", SmallInteger),
    _number("marks"),
)
"""By pod, while it lives: what its time went to, and until when marks tell of it. No fact: it goes."""
attributed = _table("attributed", *map(_key, ("job_id", "since", "attribution_id")))

attribution = Table(
    "attribution",
    tables,
    _key("id"),
    Column("digest", LargeBinary, nullable=False, unique=True),
    *map(_text, ("namespace", "job", "job_uid", "team", "model", "use_case", "user", "queue", "labels")),
    _number("job_id"),
    _number("facet_id"),
)
facet = Table(
    "facet",
    tables,
    _key("id"),
    *map(_text, FACETS),
    UniqueConstraint(*FACETS),
)
"""An attribution without its job: what roll-ups know of it."""
machine = Table(
    "machine",
    tables,
    _key("id"),
    *map(_text, MACHINES),
    UniqueConstraint(*MACHINES),
)
"""A node without its name: what roll-ups know of it."""
price = Table(
    "price",
    tables,
    _key("id"),
    Column("price_id", String, nullable=False, unique=True),
    _number("list_nano_per_hour"),
    _number("effective_nano_per_hour"),
    _text("body"),
)

settlement = _table(
    "settlement",
    *map(_key, ("node_id", "hour", "revision")),
    *map(_number, ("seq", "booked", "cost", "list_cost", "unpriced", "clamped", "rows")),
    Column("digest", LargeBinary, nullable=False),
    _text("reason"),
    _number("settled_at"),
    Index("settlement_seq", "seq", unique=True),
    Index("settlement_booked", "booked", "hour", "node_id", "revision"),
    Index(
        "settlement_unpriced",
        "hour",
        "node_id",
        sqlite_where=text("unpriced > 0"),
        postgresql_where=text("unpriced > 0"),
    ),
)
"""Revision 0 closes the hour, others correct it. `digest` and `unpriced` are of all that then holds."""
charge = _table(
    "charge",
    *map(_key, ("node_id", "hour", "revision", "n")),
    _number("pod_id"),
    _number("kind", SmallInteger),
    *map(_number, ("attempt", "attribution_id", "price_id")),
    *_amounts(),
)
dirty = _table("dirty", *map(_key, ("hour", "node_id")), _text("reason"))
"""Closed hours about which something was learnt since."""
month = _table(
    "month",
    _key("month"),
    *map(_number, ("closed_at", "rows", "cost", "list_cost")),
    Column("digest", LargeBinary),
    Column("file_digest", LargeBinary),
)

rollup_hour = _table(
    "rollup_hour",
    *map(_key, ("booked", "hour", "facet_id", "machine_id")),
    _key("kind", SmallInteger),
    *_amounts(),
)
rollup_day = _table(
    "rollup_day",
    *map(_key, ("booked", "day", "facet_id", "machine_id")),
    _key("kind", SmallInteger),
    *_amounts(),
)
job_total = _table("job_total", _key("job_id"), _key("kind", SmallInteger), *_amounts())
job_unpriced = _table("job_unpriced", _key("job_id"), *_amounts())
"""Of a job's total, what has no price: time and devices, and costs that are 0 without meaning it."""
counter = Table(
    "counter",
    tables,
    _key("family", String),
    _key("labels", String),
    *_amounts(),
    *(_number(f"base_{name}") for name in AMOUNTS[1:]),
    *(_number(f"shown_{name}") for name in AMOUNTS[1:]),
)
"""What counters show: the sum since installation, from where they count, and the most that was ever shown."""
