"""Stores facts, idempotent and in any order, and says which closed hours they touch.

Facts about one pod (or node) complete each other, whichever came first. Where two contradict each other, of
times the earlier holds, of anything else the larger. Marks and attributions are sets.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from mlenv_operator.cost.facts import HOUR, Attributed, Mark, Node, NodeMark, Pod
from mlenv_operator.cost.merge import TIMES, earlier
from mlenv_operator.cost.observe_spent import Metered
from mlenv_operator.ledger import meters, names, schema
from mlenv_operator.ledger.schema import FOREVER, KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import Connection, Table

    from mlenv_operator.cost.facts import Fact, Micros
    from mlenv_operator.cost.observe_spent import Meter

NODE_FIELDS: Final = (
    "name", "provider", "region", "zone", "instance_type", "capacity_type", "reservation", "gpus",
    "gpu_model", "cpu_milli", "memory_bytes", "created", "deleted",
)  # fmt: skip
POD_FIELDS: Final = (
    "namespace", "name", "job_id", "node_id", "gpus", "cpu_milli", "memory_bytes", "scheduled", "started",
    "finished", "released", "telemetry",
)  # fmt: skip
POD_TIMES: Final = frozenset({"started", "finished", "released"})


@dataclass(frozen=True, slots=True)
class Observed:
    """What became of a batch of facts."""

    changed: int = 0
    """Facts that told something new."""
    dirty: frozenset[tuple[str, Micros]] = frozenset()
    """Closed hours of nodes, by uid and beginning, that have to be looked at again."""
    touched: frozenset[int] = frozenset()
    """Nodes, by number, of which something is told differently now."""


@dataclass(slots=True)
class _Batch:
    connection: Connection
    numbers: dict[str, int]
    changed: int = 0
    touched: list[tuple[int, Micros, Micros, str]] = field(default_factory=list)
    """Stretches of nodes that are told differently now, and why."""

    def touch(self, node_id: int, start: Micros, end: Micros, reason: str) -> None:
        if node_id and start < end:
            self.touched.append((node_id, start, end, reason))


def observe(connection: Connection, facts: Iterable[Fact | Metered], since: int = 0) -> Observed:
    """Store the facts within the transaction of the connection. Hours before `since` are never accounted."""
    sorted_: dict[type, list[Any]] = defaultdict(list)
    for fact in dict.fromkeys(facts):
        sorted_[type(fact)].append(fact)
    told: list[Meter] = [one.meter for one in sorted_[Metered]]
    sorted_[Mark] += [mark for one in sorted_[Metered] for mark in one.marks]
    batch = _Batch(connection, names.number_uids(connection, _uids(sorted_)))
    _observe_nodes(batch, sorted_[Node], since)
    _observe_pods(batch, sorted_[Pod])
    _observe_attributed(batch, sorted_[Attributed])
    _observe_marks(batch, sorted_[Mark])
    _observe_node_marks(batch, sorted_[NodeMark])
    meters.keep(connection, told, batch.numbers)
    ended = [batch.numbers[one.uid] for one in sorted_[Pod] if one.released is not None]
    meters.drop(connection, ended)
    touched = frozenset(node_id for node_id, *_ in batch.touched)
    return Observed(batch.changed, _mark_dirty(batch), touched)


def _uids(facts: Mapping[type, list[Any]]) -> Iterable[str]:
    for one in facts[Node]:
        yield one.uid
    for pod in facts[Pod]:
        yield from (uid for uid in (pod.uid, pod.node_uid, pod.job_uid) if uid)
    yield from (one.job_uid for one in facts[Attributed])
    yield from (one.pod_uid for one in facts[Mark])
    yield from (one.meter.pod_uid for one in facts[Metered])
    yield from (one.node_uid for one in facts[NodeMark])


def _observe_nodes(batch: _Batch, nodes: Sequence[Node], since: int) -> None:
    if not nodes:
        return
    new = {batch.numbers[one.uid]: one for one in nodes}
    told: dict[int, dict[str, Any]] = {}
    for one in nodes:
        _join(told.setdefault(batch.numbers[one.uid], {}), {name: getattr(one, name) for name in NODE_FIELDS})
    known = _rows(batch.connection, schema.node, told)
    rows, changes = [], []
    for number, row in sorted(told.items()):
        old = known.get(number)
        if old is None:
            rows.append({**row, "id": number, "next_hour": max(row["created"] // HOUR, since)})
        elif differing := _join(joined := {name: old[name] for name in NODE_FIELDS}, row):
            changes.append({**old, **joined, "next_hour": _reopened(batch.connection, old, since)})
            start = min(row["deleted"], old["deleted"] or row["deleted"]) if differing == {"deleted"} else 0
            batch.touch(number, start, FOREVER, "node")
    for row in (*rows, *changes):
        row["machine_id"] = _machine(batch.connection, row, new[row["id"]].uid)
    _write(batch, schema.node, rows, changes)


def _reopened(connection: Connection, old: Mapping[str, Any], since: int) -> int:
    """The hour after the last that is closed: what is told anew may have made the node's life longer."""
    at = schema.settlement.c
    last = connection.execute(select(func.max(at.hour)).where(at.node_id == old["id"])).scalar()
    return max(int(old["created"]) // HOUR, since) if last is None else int(last) + 1


def _machine(connection: Connection, row: Mapping[str, Any], uid: str) -> int:
    node = Node(uid=uid, **{name: row[name] for name in NODE_FIELDS})
    return names.number_machines(connection, [node])[names.machine_of(node)]


def _observe_pods(batch: _Batch, pods: Sequence[Pod]) -> None:
    told: dict[int, dict[str, Any]] = {}
    for one in pods:
        _join(told.setdefault(batch.numbers[one.uid], {}), _pod_row(batch, one))
    known = _rows(batch.connection, schema.pod, told)
    rows, changes = [], []
    for number, row in sorted(told.items()):
        old = known.get(number)
        if old is None:
            rows.append({**row, "id": number})
            batch.touch(row["node_id"], row["scheduled"], _end(row), "pod")
            continue
        was = {name: None if old[name] == FOREVER else old[name] for name in POD_FIELDS}
        joined = dict(was)
        if differing := _join(joined, row):
            changes.append({**joined, "id": number})
            _touch_pod(batch, was, joined, differing)
    for row in (*rows, *changes):
        row["released"] = _end(row)
    _write(batch, schema.pod, rows, changes)


def _pod_row(batch: _Batch, pod: Pod) -> dict[str, Any]:
    row = {name: getattr(pod, name) for name in POD_FIELDS if not name.endswith("_id")}
    job_id, node_id = batch.numbers.get(pod.job_uid, 0), batch.numbers.get(pod.node_uid, 0)
    return {**row, "telemetry": int(pod.telemetry), "job_id": job_id, "node_id": node_id}


def _end(row: Mapping[str, Any]) -> int:
    return FOREVER if row["released"] is None else int(row["released"])


def _touch_pod(batch: _Batch, was: dict[str, Any], now: dict[str, Any], differing: set[str]) -> None:
    """A time that was moved changes what lies between; anything else changes the whole life.

    Until a start is told, the first mark or the end stands for it: a late one changes what lies before it.
    """
    if differing <= POD_TIMES:
        moved = [one for name in differing for one in (was[name], now[name])]
        if "started" in differing and was["started"] is None:
            moved.append(now["scheduled"])
        times = [FOREVER if one is None else one for one in moved]
        batch.touch(now["node_id"], min(times), max(times), "pod")
        return
    for row in (was, now):
        batch.touch(row["node_id"], row["scheduled"], _end(row), "pod")


def _observe_attributed(batch: _Batch, facts: Sequence[Attributed]) -> None:
    if not facts:
        return
    numbers = names.number_attributions(batch.connection, (one.to for one in facts))
    rows = [
        {"job_id": batch.numbers[one.job_uid], "since": one.since, "attribution_id": numbers[one.to]}
        for one in facts
    ]
    new = _add(batch, schema.attributed, rows)
    if not new:
        return
    pods = _pods_of_jobs(batch.connection, {row["job_id"] for row in new})
    said = _since(batch.connection, pods)
    for row in new if pods else ():
        times = [0, *said[row["job_id"]][1:], FOREVER]  # before the first, that one holds
        start, end = next((a, b) for a, b in pairwise(times) if row["since"] < b or b == FOREVER)
        for node_id, scheduled, released in pods.get(row["job_id"], ()):
            batch.touch(node_id, max(start, scheduled), min(end, released), "attribution")


def _pods_of_jobs(connection: Connection, jobs: Iterable[int]) -> dict[int, list[tuple[int, Micros, Micros]]]:
    pod, node = schema.pod.c, schema.node.c
    found = defaultdict(list)
    for some in names.chunks(jobs):
        query = (
            select(pod.job_id, pod.node_id, pod.scheduled, pod.released)
            .join(schema.node, node.id == pod.node_id)
            .where(pod.job_id.in_(some), pod.scheduled // HOUR < node.next_hour)
        )
        for job_id, node_id, scheduled, released in connection.execute(query):
            found[job_id].append((node_id, scheduled, released))
    return found


def _since(connection: Connection, jobs: Iterable[int]) -> dict[int, list[Micros]]:
    at = schema.attributed.c
    found = defaultdict(list)
    for some in names.chunks(jobs):
        query = select(at.job_id, at.since).where(at.job_id.in_(some)).distinct().order_by(at.since)
        for job_id, since in connection.execute(query):
            found[job_id].append(since)
    return found


def _observe_marks(batch: _Batch, marks: Sequence[Mark]) -> None:
    rows = [
        {
            "pod_id": batch.numbers[one.pod_uid],
            "at": one.at,
            "sequence": one.sequence,
            "attempt": one.attempt,
            "category": KINDS[one.category],
        }
        for one in marks
    ]
    late = _closed_until(batch.connection, {row["pod_id"] for row in rows})
    old = [row for row in rows if row["at"] < late.get(row["pod_id"], (0, 0))[1]]
    news = _missing(batch.connection, schema.mark, old) if old else []
    _add(batch, schema.mark, rows)
    mark = schema.mark.c
    for row in news:
        # What is said of older attempts does not hold after it.
        after = select(func.min(mark.at)).where(
            mark.pod_id == row["pod_id"], mark.at > row["at"], mark.attempt >= row["attempt"]
        )
        end = batch.connection.execute(after).scalar()
        batch.touch(late[row["pod_id"]][0], row["at"], FOREVER if end is None else end, "mark")


def _closed_until(connection: Connection, pods: Iterable[int]) -> dict[int, tuple[int, Micros]]:
    """By pod: its node, and until when the node's hours are closed."""
    pod, node = schema.pod.c, schema.node.c
    found = {}
    for some in names.chunks(pods):
        query = (
            select(pod.id, node.id, node.next_hour)
            .join(schema.node, node.id == pod.node_id)
            .where(pod.id.in_(some))
        )
        for pod_id, node_id, next_hour in connection.execute(query):
            found[pod_id] = (node_id, next_hour * HOUR)
    return found


def _observe_node_marks(batch: _Batch, marks: Sequence[NodeMark]) -> None:
    rows = [
        {"node_id": batch.numbers[one.node_uid], "at": one.at, "use": KINDS[one.use] if one.use else 0}
        for one in marks
    ]
    at = schema.node_mark.c
    for row in _add(batch, schema.node_mark, rows):
        after = select(func.min(at.at)).where(at.node_id == row["node_id"], at.at > row["at"])
        end = batch.connection.execute(after).scalar()
        batch.touch(row["node_id"], row["at"], FOREVER if end is None else end, "node mark")


def _join(into: dict[str, Any], more: Mapping[str, Any]) -> set[str]:
    """Complete one by the other; which fields that changed."""
    changed = set()
    for name, value in more.items():
        known = into.setdefault(name, value)
        if known is value:
            continue
        told = earlier(known, value) if name in TIMES else max(known, value)
        if told != known:
            into[name] = told
            changed.add(name)
    return changed


def _rows(connection: Connection, table: Table, numbers: Iterable[int]) -> dict[int, dict[str, Any]]:
    found = {}
    for some in names.chunks(numbers):
        for row in connection.execute(select(table).where(table.c.id.in_(some))).mappings():
            found[row["id"]] = dict(row)
    return found


def _write(batch: _Batch, table: Table, rows: list[dict[str, Any]], changes: list[dict[str, Any]]) -> None:
    if rows:
        batch.connection.execute(insert(table), rows)
    if changes:
        new: dict[str, Any] = {name: bindparam(f"new_{name}") for name in changes[0] if name != "id"}
        values = [{f"new_{name}": value for name, value in row.items()} for row in changes]
        where = table.c.id == bindparam("new_id")
        batch.connection.execute(update(table).where(where).values(**new), values)
    batch.changed += len(rows) + len(changes)


def _missing(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those whose key is not there yet. For the few that are late."""
    keys = [column.name for column in table.primary_key]
    one, two = keys[:2]
    known: set[tuple[Any, ...]] = set()
    for some in names.chunks(rows):
        near = table.c[one].in_({row[one] for row in some}), table.c[two].in_({row[two] for row in some})
        query = select(*(table.c[key] for key in keys)).where(*near)
        known.update(tuple(row) for row in connection.execute(query))
    return [row for row in rows if tuple(row[key] for key in keys) not in known]


def _add(batch: _Batch, table: Table, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Insert those that are not there; those that are new, where that is asked of few."""
    if not rows:
        return []
    connection = batch.connection
    new = rows if table is schema.mark else _missing(connection, table, rows)
    if new:
        batch.changed += add_missing(connection, table, new)
    return new


def _mark_dirty(batch: _Batch) -> frozenset[tuple[str, Micros]]:
    """Of what was touched, the hours that are closed already."""
    nodes = _next_hours(batch.connection, {node_id for node_id, *_ in batch.touched})
    dirty: dict[tuple[int, int], str] = {}
    for node_id, start, end, reason in batch.touched:
        if node_id in nodes and start // HOUR < nodes[node_id][1]:
            for hour in _settled(batch.connection, node_id, start // HOUR, (end - 1) // HOUR):
                dirty.setdefault((hour, node_id), reason)
    add_dirty(batch.connection, dirty)
    return frozenset((nodes[node_id][0], hour * HOUR) for hour, node_id in dirty)


def _next_hours(connection: Connection, nodes: Iterable[int]) -> dict[int, tuple[str, int]]:
    node = schema.node.c
    found: dict[int, tuple[str, int]] = {}
    for some in names.chunks(nodes):
        query = (
            select(node.id, schema.uid.c.uid, node.next_hour)
            .join(schema.uid, schema.uid.c.id == node.id)
            .where(node.id.in_(some))
        )
        found.update((row[0], (row[1], row[2])) for row in connection.execute(query))
    return found


def _settled(connection: Connection, node_id: int, first: int, last: int) -> list[int]:
    at = schema.settlement.c
    query = select(at.hour).where(at.node_id == node_id, at.hour.between(first, last), at.revision == 0)
    return list(connection.execute(query).scalars())


def add_dirty(connection: Connection, dirty: Mapping[tuple[int, int], str]) -> None:
    """Have these closed hours, by (hour, node), looked at again."""
    rows = [
        {"hour": hour, "node_id": node_id, "reason": why} for (hour, node_id), why in sorted(dirty.items())
    ]
    if rows:
        add_missing(connection, schema.dirty, rows)


def add_missing(connection: Connection, table: Table, rows: Any) -> int:
    """Insert rows, or what a query finds, and pass over those that are there already; how many are new."""
    dialect: Any = sqlite if connection.dialect.name == "sqlite" else postgresql
    into = dialect.insert(table).on_conflict_do_nothing()
    counted = {"preserve_rowcount": True}
    if isinstance(rows, list):
        return max(connection.execute(into, rows, execution_options=counted).rowcount, 0)
    query = into.from_select([column.name for column in rows.selected_columns], rows)
    return max(connection.execute(query, execution_options=counted).rowcount, 0)
