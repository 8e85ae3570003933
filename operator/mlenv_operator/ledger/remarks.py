"""Remarks of the ledger about itself, by key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite

from mlenv_operator.ledger import schema

if TYPE_CHECKING:
    from sqlalchemy import Connection


def get(connection: Connection, key: str) -> str | None:
    """A remark of the ledger about itself."""
    return connection.execute(select(schema.meta.c.value).where(schema.meta.c.key == key)).scalar()


def put(connection: Connection, key: str, value: str) -> None:
    """Keep a remark."""
    dialect: Any = sqlite if connection.dialect.name == "sqlite" else postgresql
    statement = dialect.insert(schema.meta).values(key=key, value=value)
    connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_={"value": value}))
