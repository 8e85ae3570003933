"""Numbered steps from an empty database to the schema of now: forward only, each in one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import func, insert, inspect, select, text

from mlenv_operator.ledger import schema
from mlenv_operator.ledger.errors import WrongSchema
from mlenv_operator.ledger.schema import AMOUNTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

KEPT: Final = ("settlement", "charge")
"""Tables whose rows never change."""


def _first(connection: Connection) -> None:
    schema.tables.create_all(connection)
    connection.execute(insert(schema.fence).values(id=1, term=0, holder=""))
    for statement in _guards(connection.dialect.name):
        connection.execute(text(statement))


def _meters(connection: Connection) -> None:
    """A new ledger has the table already: the first step makes all that the schema of now has."""
    schema.meter.create(connection, checkfirst=True)


def _unpriced(connection: Connection) -> None:
    """From the charges, once; a new ledger has none."""
    schema.job_unpriced.create(connection, checkfirst=True)
    charge, owner = schema.charge.c, schema.attribution.c
    query = (
        select(owner.job_id, *(func.sum(charge[name]) for name in AMOUNTS))
        .select_from(schema.charge)
        .join(schema.attribution, owner.id == charge.attribution_id)
        .where(charge.price_id == 0, owner.job_id > 0)
        .group_by(owner.job_id)
    )
    connection.execute(insert(schema.job_unpriced).from_select(["job_id", *AMOUNTS], query))


MIGRATIONS: Final[tuple[tuple[str, Callable[[Connection], None]], ...]] = (
    ("first", _first),
    ("meters", _meters),
    ("unpriced", _unpriced),
)
"""Never change one that was released: add another."""


def migrate(connection: Connection) -> int:
    """Bring the database to the schema of now; how many steps that took."""
    done = check_known(connection)
    for number, (name, step) in list(enumerate(MIGRATIONS, 1))[done:]:
        step(connection)
        connection.execute(insert(schema.migration).values(number=number, name=name))
    return len(MIGRATIONS) - done


def check_known(connection: Connection) -> int:
    """The schema's number; refuses one that is newer than this program."""
    found = _number(connection)
    if found > len(MIGRATIONS):
        raise WrongSchema(
            f"The ledger has schema {found}, and this operator knows schemas up to {len(MIGRATIONS)}: "
            "a newer one has used it. Run that version, or restore a backup made before the upgrade."
        )
    return found


def check(connection: Connection) -> None:
    """Refuse a database that is not at the schema of now."""
    found = check_known(connection)
    if found < len(MIGRATIONS):
        raise WrongSchema(
            f"The ledger has schema {found}, this operator needs {len(MIGRATIONS)}: "
            "run `python -m mlenv_operator.ledger migrate`."
        )


def _number(connection: Connection) -> int:
    if not inspect(connection).has_table("migration"):
        return 0
    return max(connection.execute(select(schema.migration.c.number)).scalars(), default=0)


def _guards(dialect: str) -> list[str]:
    """Triggers that keep what is closed as it is, whoever tries."""
    return _sqlite_guards() if dialect == "sqlite" else _postgresql_guards()


def _sqlite_guards() -> list[str]:
    kept = [
        f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
        f"BEGIN SELECT RAISE(ABORT, 'rows of {table} never change'); END"
        for table in KEPT
        for verb in ("UPDATE", "DELETE")
    ]
    closed = (
        "CREATE TRIGGER settlement_open_month BEFORE INSERT ON settlement "
        "WHEN EXISTS (SELECT 1 FROM month WHERE month.month = NEW.booked) "
        "BEGIN SELECT RAISE(ABORT, 'the month is closed'); END"
    )
    return [*kept, closed]


def _postgresql_guards() -> list[str]:
    refuse = (
        "CREATE FUNCTION ledger_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'rows of % never change', TG_TABLE_NAME; END $$"
    )
    kept = [
        f"CREATE TRIGGER {table}_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse()"
        for table in KEPT
    ]
    closed = (
        "CREATE FUNCTION ledger_open_month() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF EXISTS (SELECT 1 FROM month WHERE month.month = NEW.booked) THEN "
        "RAISE EXCEPTION 'the month is closed'; END IF; RETURN NEW; END $$"
    )
    guard = (
        "CREATE TRIGGER settlement_open_month BEFORE INSERT ON settlement "
        "FOR EACH ROW EXECUTE FUNCTION ledger_open_month()"
    )
    return [refuse, *kept, closed, guard]
