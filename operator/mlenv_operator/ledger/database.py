"""Connections to SQLite or PostgreSQL, transactions that only the leader may make, and failures in words."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import create_engine, event, make_url, select, update
from sqlalchemy.exc import DatabaseError, DBAPIError, OperationalError

from mlenv_operator.ledger import migrations
from mlenv_operator.ledger.errors import LedgerError, LedgerUnavailable, StaleWriter
from mlenv_operator.ledger.schema import fence
from mlenv_operator.ledger.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Connection, Engine

BUSY_MS: Final = 5_000
"""For so long SQLite waits for another connection's lock."""
STATEMENT_MS: Final = 60_000
CONNECT_S: Final = 5
PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    # In WAL, NORMAL loses the last commits when the machine dies. A pod's finalizer is gone by then: FULL.
    "PRAGMA synchronous = FULL",
    f"PRAGMA busy_timeout = {BUSY_MS}",
    "PRAGMA cache_size = -32768",
    "PRAGMA wal_autocheckpoint = 2000",
    "PRAGMA journal_size_limit = 67108864",
    "PRAGMA temp_store = MEMORY",
)


class Database:
    """One database, open. Reading needs no right; writing needs `take` first."""

    def __init__(self, dsn: str) -> None:
        self.url = url_of(dsn)
        self.writing = _engine(self.url, begin="BEGIN IMMEDIATE")
        self.reading_engine = _engine(self.url, begin="BEGIN")
        self.writer: Writer | None = None

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file."""
        return self.url.get_backend_name() == "sqlite"

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one state and changes nothing."""
        with _in_words(), self.reading_engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def changing(self) -> Iterator[Connection]:
        """A transaction of the ledger's writer; raises StaleWriter when another has taken it over."""
        with _in_words(), self.writing.begin() as connection:
            self._check_fence(connection)
            yield connection

    def migrate(self) -> int:
        """Bring the schema up to date, in one transaction; how many steps that took."""
        with _in_words(), self.writing.begin() as connection:
            return migrations.migrate(connection)

    def check(self) -> None:
        """Refuse a schema that is not the one of now."""
        with self.reading() as connection:
            migrations.check(connection)

    def take(self, writer: Writer) -> None:
        """Become the only writer. A term that was seen before, held by another, is refused."""
        with _in_words(), self.writing.begin() as connection:
            term, holder = self._fence(connection)
            if (term, holder) != (writer.term, writer.holder) and writer.term <= term:
                raise StaleWriter(
                    f"The ledger belongs to {holder} since term {term} of the lease, and this is "
                    f"{writer.holder} of term {writer.term}: two operators lead, or the lease was made anew."
                )
            connection.execute(update(fence).values(term=writer.term, holder=writer.holder))
        self.writer = writer

    def adopt(self) -> None:
        """Write in the name of the last writer: for maintenance, while no operator runs."""
        with self.reading() as connection:
            row = connection.execute(select(fence.c.term, fence.c.holder)).one()
        self.writer = Writer(row.term, row.holder)

    def close(self) -> None:
        """Close all connections."""
        self.writing.dispose()
        self.reading_engine.dispose()

    def _check_fence(self, connection: Connection) -> None:
        if self.writer is None:
            raise StaleWriter("Nobody has taken the ledger over for writing: call take() first.")
        term, holder = self._fence(connection)
        if (term, holder) != (self.writer.term, self.writer.holder):
            raise StaleWriter(
                f"The ledger belongs to {holder} since term {term} of the lease; {self.writer.holder} of "
                f"term {self.writer.term} must not write any more. Its facts come again to the new leader."
            )

    @staticmethod
    def _fence(connection: Connection) -> tuple[int, str]:
        # Locked until the end: whoever takes over waits for it, or this transaction sees that it is stale.
        row = connection.execute(select(fence.c.term, fence.c.holder).with_for_update()).one()
        return row.term, row.holder


def url_of(dsn: str) -> URL:
    """The DSN with the driver that is meant; refuses other databases than the two."""
    url = make_url(dsn)
    backend = url.get_backend_name()
    if backend == "sqlite":
        if not url.database:
            raise LedgerError(f"The DSN {dsn!r} names no file: use sqlite:////folder/ledger.db.")
        return url.set(drivername="sqlite+pysqlite")
    if backend in {"postgresql", "postgres"}:
        return url.set(drivername="postgresql+psycopg")
    raise LedgerError(f"The ledger can be in SQLite or PostgreSQL, not in {backend}.")


def _engine(url: URL, *, begin: str) -> Engine:
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"timeout": BUSY_MS / 1000, "check_same_thread": False})
        event.listen(engine, "connect", _open_sqlite)
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
        return engine
    options = f"-c statement_timeout={STATEMENT_MS} -c idle_in_transaction_session_timeout={STATEMENT_MS}"
    return create_engine(
        url,
        pool_pre_ping=True,
        isolation_level="REPEATABLE READ" if begin == "BEGIN" else "READ COMMITTED",
        connect_args={"connect_timeout": CONNECT_S, "options": options},
    )


def _open_sqlite(connection: sqlite3.Connection, _: Any) -> None:
    # Transactions begin where we say so, not where the driver guesses.
    connection.isolation_level = None
    for pragma in PRAGMAS:
        connection.execute(pragma)


@contextmanager
def _in_words() -> Iterator[None]:
    """Failures of the database as LedgerUnavailable; what a guard refused, and mistakes, stay as they are."""
    try:
        yield
    except OperationalError as error:
        raise LedgerUnavailable(explain(str(error.orig))) from error
    except DBAPIError as error:
        # SQLite says so, and nothing more precise, of a file that is damaged or is no database.
        if error.connection_invalidated or type(error) is DatabaseError:
            raise LedgerUnavailable(explain(str(error.orig))) from error
        raise
    except sqlite3.OperationalError as error:
        raise LedgerUnavailable(explain(str(error))) from error


CURES: Final = {
    "disk is full": "Make room on its volume, or enlarge it.",
    "no space left": "Make room on its volume, or enlarge it.",
    "readonly": "Its volume is mounted read-only: look at the volume and its file system.",
    "read-only": "The server does not take writes: is it a replica?",
    "database is locked": "Another process holds it: a backup, or a second operator.",
    "unable to open": "Is its folder there, and may the operator write to it?",
    "malformed": "The file is damaged: restore a backup.",
    "not a database": "The file is something else, or damaged: restore a backup.",
    "disk i/o error": "Look at its volume.",
    "connection": "Is the server up, and may the operator reach it?",
    "timeout": "The server is slow: look at its load and its locks.",
}


def explain(message: str) -> str:
    """A sentence about a failure of the database, with what to do where that is known."""
    said = " ".join(message.split())
    cure = next((words for part, words in CURES.items() if part in said.lower()), "It is tried again.")
    return f"The ledger's database does not work: {said}. {cure}"


def sqlite_file(url: URL) -> Path:
    """Where a SQLite ledger is."""
    return Path(str(url.database))
