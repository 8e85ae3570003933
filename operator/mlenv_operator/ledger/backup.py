"""Backups of a SQLite ledger, taken while it is written, and their way back."""

from __future__ import annotations

import shutil
import sqlite3
from typing import TYPE_CHECKING

from mlenv_operator.ledger import exports, migrations
from mlenv_operator.ledger.database import Database, explain, sqlite_file
from mlenv_operator.ledger.errors import LedgerError, LedgerRefused, LedgerUnavailable

if TYPE_CHECKING:
    from pathlib import Path

    from mlenv_operator.cost.facts import Micros
    from mlenv_operator.ledger.exports import Marks

POSTGRESQL = (
    "This ledger is in PostgreSQL, which has its own tools: back it up with `pg_dump --format=custom`, and "
    "bring it back with `pg_restore --clean`; then `check` says whether counters may be shown."
)


def back_up(database: Database, to: Path) -> int:
    """A whole copy of one moment, in one file; how many bytes it has. Writers go on meanwhile."""
    if not database.is_sqlite:
        raise LedgerRefused(POSTGRESQL)
    if to.exists():
        raise LedgerRefused(f"{to} is there already: backups are not written over.")
    new = to.with_suffix(to.suffix + ".new")
    new.unlink(missing_ok=True)
    try:
        # Outside a transaction, as VACUUM wants it.
        with sqlite3.connect(sqlite_file(database.url), isolation_level=None) as connection:
            connection.execute("VACUUM INTO ?", (str(new),))
    except sqlite3.Error as error:
        new.unlink(missing_ok=True)
        raise LedgerUnavailable(explain(str(error))) from error
    finally:
        connection.close()
    new.replace(to)
    return to.stat().st_size


def restore(
    dsn: str, backup: Path, marks: Marks, now: Micros, *, reset_counters: bool = False, replace: bool = False
) -> None:
    """Put the backup in the place of the ledger; the operator must be stopped.

    Refused when the backup does not know what counters showed last, unless these may begin anew at zero.
    """
    target = Database(dsn)
    if not target.is_sqlite:
        raise LedgerRefused(POSTGRESQL)
    file = sqlite_file(target.url)
    if file.exists() and not replace:
        raise LedgerRefused(f"{file} is there already: say --replace, and it is kept as {file.name}.before.")
    _examine(backup, marks, reset_counters=reset_counters)
    new = file.with_name(file.name + ".new")
    shutil.copyfile(backup, new)
    # With its log, which may hold what is not in the file yet; the log's index is made anew.
    file.with_name(file.name + "-shm").unlink(missing_ok=True)
    for rest in ("-wal", ""):
        if (old := file.with_name(file.name + rest)).exists():
            old.replace(file.with_name(f"{file.name}.before{rest}"))
    new.replace(file)
    if reset_counters:
        target.migrate()
        target.adopt()
        exports.reset(target, marks, now)
    target.close()


def _examine(backup: Path, marks: Marks, *, reset_counters: bool) -> None:
    """Refuse what is no ledger, damaged, of a newer schema, or older than what counters showed."""
    if not backup.is_file():
        raise LedgerError(f"There is no backup {backup}.")
    database = Database(f"sqlite:///{backup}")
    try:
        with database.reading() as connection:
            if (said := connection.exec_driver_sql("PRAGMA integrity_check").scalar()) != "ok":
                raise LedgerRefused(f"The backup {backup} is damaged: {said}.")
            if not migrations.check_known(connection):
                raise LedgerRefused(f"{backup} is no ledger.")
            if not reset_counters:
                exports.check(connection, marks.read())
    finally:
        database.close()
