"""Projects, collections and members by filter and order, a page at a time."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlenv_local.wandb_server import filters, pages
from mlenv_local.wandb_server.artifacts import collections, views
from mlenv_local.wandb_server.errors import Refused
from mlenv_local.wandb_server.filters import MISSING, Moment

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable

    Facts = Callable[[sqlite3.Row], dict[str, Any]]

Raw = dict[str, Any]

_MEMBERS = (
    "SELECT m.*, a.state, a.metadata, a.description, a.size, a.digest, a.created_ms AS made_ms,"
    " a.updated_ms AS changed_ms FROM artifact_memberships m JOIN artifacts a ON a.id = m.artifact_id"
)
_NEWEST_FIRST = ("id", True)


@dataclass(frozen=True, slots=True)
class Asked:
    """Which of many are wanted, in which order, and which page of them."""

    filters: str | None = None
    order: str | None = None
    first: int | None = None
    after: str | None = None


def projects(rows: Iterable[sqlite3.Row], asked: Asked) -> list[sqlite3.Row]:
    """Of some projects, those that a filter lets through, in order."""
    return _chosen(rows, _project_facts, asked)


def matching_collections(
    db: sqlite3.Connection, rows: Iterable[sqlite3.Row], asked: Asked
) -> list[sqlite3.Row]:
    """Of some collections, those that a filter lets through, in order."""
    return _chosen(rows, lambda row: _collection_facts(db, row), asked)


def collections_page(db: sqlite3.Connection, rows: Iterable[sqlite3.Row], asked: Asked) -> Raw:
    """The same, as a page."""
    return _page(matching_collections(db, rows, asked), views.collection, asked)


def members(db: sqlite3.Connection, collection_ids: Iterable[int]) -> list[sqlite3.Row]:
    """All members of some collections."""
    found = []
    for collection in collection_ids:
        found += db.execute(f"{_MEMBERS} WHERE m.collection_id = ?", (collection,)).fetchall()
    return found


def members_page(db: sqlite3.Connection, rows: Iterable[sqlite3.Row], asked: Asked) -> Raw:
    """Of some members, those that a filter lets through, in order, as a page."""
    return _page(_chosen(rows, lambda row: _member_facts(db, row), asked), views.membership, asked)


def _page(rows: list[sqlite3.Row], view: Callable[[sqlite3.Row], Raw], asked: Asked) -> Raw:
    return pages.page(rows, lambda row: str(row["id"]), view, asked.first, asked.after)


def _chosen(rows: Iterable[sqlite3.Row], facts: Facts, asked: Asked) -> list[sqlite3.Row]:
    """Filtered, and sorted by the order that was asked for, then by age; by default the newest first."""
    wanted = _condition(asked.filters)
    known = [(row, facts(row)) for row in rows]
    passed = [(row, fact) for row, fact in known if filters.matches(wanted, _lookup(fact))]
    for field, descending in reversed([*filters.orders(asked.order), _NEWEST_FIRST]):
        passed.sort(key=lambda one: filters.rank(_value(one[1], field)), reverse=descending)
    return [row for row, _ in passed]


def _condition(text: str | None) -> Raw:
    try:
        condition = json.loads(text or "{}")
    except ValueError as error:
        raise Refused(f"The filter is no JSON: {error}") from error
    if not isinstance(condition, dict):
        raise Refused("The filter is no JSON object.")
    return condition


def _lookup(facts: Raw) -> Callable[[str], Any]:
    return lambda path: _value(facts, path)


def _value(facts: Raw, path: str) -> Any:
    """A field by its path, spelled with underscores or in camel case; Refused if there is no such field."""
    head, dot, rest = path.partition(".")
    name = re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", head).lower()
    if name not in facts:
        raise Refused(
            f"Artifacts are not filtered or sorted by {path!r} here, but by {', '.join(sorted(facts))}."
        )
    value = filters.dig(facts[name], rest) if dot else facts[name]
    return MISSING if value is None else value


def _project_facts(row: sqlite3.Row) -> Raw:
    return {
        "id": row["id"],
        "project_id": row["id"],
        "entity_id": row["entity_id"],
        "name": row["name"],
        "description": row["description"],
        "created_at": Moment(row["created_ms"]),
        "updated_at": Moment(row["created_ms"]),
    }


def _collection_facts(db: sqlite3.Connection, row: sqlite3.Row) -> Raw:
    tags = collections.tags(db, row["id"])
    return {
        "id": row["id"],
        "artifact_collection_id": row["id"],
        "name": row["name"],
        "description": row["description"],
        "type": row["type"],
        "tag": tags,
        "tags": tags,
        "created_at": Moment(row["created_ms"]),
        "updated_at": Moment(row["updated_ms"]),
    }


def _member_facts(db: sqlite3.Connection, row: sqlite3.Row) -> Raw:
    tags = _names(db, "SELECT tag FROM artifact_tags WHERE artifact_id = ?", row["artifact_id"])
    named = _names(db, "SELECT alias FROM artifact_aliases WHERE membership_id = ?", row["id"])
    version = f"v{row['version_index']}"
    metadata = json.loads(row["metadata"]) if row["metadata"] else {}
    return {
        "id": row["id"],
        "artifact_id": row["artifact_id"],
        "version": [row["version_index"], version],
        "version_index": row["version_index"],
        "state": row["state"],
        "digest": row["digest"],
        "description": row["description"],
        "metadata": metadata,
        "artifact_metadata": metadata,
        "tag": tags,
        "tags": tags,
        "alias": [version, *named],
        "aliases": [version, *named],
        "size": row["size"],
        "artifact_size": row["size"],
        "created_at": Moment(row["made_ms"]),
        "artifact_created_at": Moment(row["made_ms"]),
        "updated_at": Moment(row["changed_ms"]),
        "linked_at": Moment(row["created_ms"]),
        "acm_created_at": Moment(row["created_ms"]),
    }


def _names(db: sqlite3.Connection, query: str, row: int) -> list[str]:
    return [one[0] for one in db.execute(query, (row,))]
