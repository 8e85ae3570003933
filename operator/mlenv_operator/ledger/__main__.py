"""The ledger's own commands: `python -m mlenv_operator.ledger backup | restore | check | reprice | …`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mlenv_operator.cost.facts import DOLLAR, HOUR, SECOND
from mlenv_operator.ledger import backup, exports, parquet, queries
from mlenv_operator.ledger.calendar import hours_of, parse_month, show_hour, show_month
from mlenv_operator.ledger.database import Database, sqlite_file, url_of
from mlenv_operator.ledger.errors import LedgerError
from mlenv_operator.ledger.ledger import Ledger, marks_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlenv_operator.ledger.exports import Marks

DSN = "MLENV_OPERATOR_LEDGER_DSN"
FOLDER = "MLENV_OPERATOR_LEDGER_FOLDER"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; errors are sentences, and exit code 1."""
    arguments = _parser().parse_args(argv)
    if not arguments.dsn:
        sys.stderr.write(f"Which ledger? Set {DSN}, or --dsn.\n")
        return 2
    try:
        command: Callable[[argparse.Namespace], str] = arguments.command
        sys.stdout.write(command(arguments) + "\n")
    except LedgerError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mlenv_operator.ledger", description="The ledger's own commands.")
    parser.add_argument("--dsn", default=os.environ.get(DSN, ""), help=f"the database; {DSN} unless given")
    parser.add_argument(
        "--folder", default=os.environ.get(FOLDER, ""), help="months, and what counters showed last"
    )
    commands = parser.add_subparsers(required=True)

    def command(name: str, call: Callable[[argparse.Namespace], str], text: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text)
        one.set_defaults(command=call)
        return one

    command("migrate", _migrate, "bring the schema up to date")
    command(
        "check", _check, "read everything: schema, sums, missing prices, and whether counters may be shown"
    )
    command("backup", _backup, "copy a SQLite ledger while it is used").add_argument("file", type=Path)
    back = command("restore", _restore, "put a backup in the ledger's place, while the operator is stopped")
    back.add_argument("file", type=Path)
    back.add_argument("--replace", action="store_true", help="keep the ledger that is there as *.before")
    back.add_argument("--reset-counters", action="store_true", help="let counters begin anew at zero")
    command("reset-counters", _reset, "let counters begin anew at zero, while the operator is stopped")
    for name, call, text in (
        ("close-month", _close_month, "close a month, after which it never changes"),
        ("export", _export, "write a closed month as Parquet"),
        ("reprice", _reprice, "have closed hours of a month charged anew, at the prices of now"),
    ):
        command(name, call, text).add_argument("month", type=parse_month, help="as 2025-11")
    return parser


def _migrate(arguments: argparse.Namespace) -> str:
    steps = Database(arguments.dsn).migrate()
    return f"{steps} steps were made." if steps else "The schema is up to date."


def _check(arguments: argparse.Namespace) -> str:
    database = Database(arguments.dsn)
    database.check()
    with database.reading() as connection:
        wrong = queries.imbalance(connection)
        unpriced = queries.unpriced(connection)
        until = queries.settled_until(connection)
        exports.check(connection, _marks(arguments).read())
    if wrong:
        raise LedgerError(
            f"Sums that must be equal differ by {wrong} nanodollars: this is a mistake in the operator."
        )
    kinds = sorted({f"{one.instance_type} ({one.capacity_type})" for one in unpriced})
    prices = (
        f"{len(unpriced)} node-hours have no price: {', '.join(kinds)}."
        if unpriced
        else "Every hour has a price."
    )
    closed = f"Closed until {show_hour(until)}." if until is not None else "No node is being accounted."
    return f"All sums are equal. {prices} {closed} Counters may be shown."


def _backup(arguments: argparse.Namespace) -> str:
    size = backup.back_up(Database(arguments.dsn), arguments.file)
    return f"{arguments.file}: {size} bytes"


def _restore(arguments: argparse.Namespace) -> str:
    backup.restore(
        arguments.dsn,
        arguments.file,
        _marks(arguments),
        _now(),
        reset_counters=arguments.reset_counters,
        replace=arguments.replace,
    )
    return f"Restored from {arguments.file}."


def _reset(arguments: argparse.Namespace) -> str:
    exports.reset(_adopted(arguments).database, _marks(arguments), _now())
    return "Counters begin anew at zero."


def _close_month(arguments: argparse.Namespace) -> str:
    found = _adopted(arguments).close_month(arguments.month, _now())
    return f"{show_month(found.month)} is closed: {found.rows} rows, {found.cost / DOLLAR:.9f} dollars."


def _export(arguments: argparse.Namespace) -> str:
    found = parquet.export(_adopted(arguments).database, arguments.month, _folder(arguments))
    return f"{found.path}: {found.rows} rows, {found.bytes} bytes, content {found.digest}"


def _reprice(arguments: argparse.Namespace) -> str:
    """Only told here: the operator that leads knows the prices."""
    first, end = hours_of(arguments.month)
    found = _adopted(arguments).look_again(first * HOUR, end * HOUR, "price")
    return (
        f"{found} closed node-hours of {show_month(arguments.month)} are looked at again by the operator that"
        " leads. Where its prices are others than those that were charged, it books the difference."
    )


def _adopted(arguments: argparse.Namespace) -> Ledger:
    """The ledger, written in the name of its last writer: months disturb no operator."""
    database = Database(arguments.dsn)
    database.check()
    database.adopt()
    return Ledger(database)


def _marks(arguments: argparse.Namespace) -> Marks:
    return marks_of(arguments.dsn, arguments.folder)


def _folder(arguments: argparse.Namespace) -> Path:
    """Where months go: the folder that was given, or that of a SQLite ledger."""
    if arguments.folder:
        return Path(arguments.folder)
    url = url_of(arguments.dsn)
    if url.get_backend_name() != "sqlite":
        raise LedgerError(f"Where to? Set {FOLDER}, or --folder.")
    return sqlite_file(url).parent


def _now() -> int:
    return time.time_ns() // 1000 // SECOND * SECOND


if __name__ == "__main__":
    sys.exit(main())
