"""One SQLite file: a single writer with short transactions, readers on connections of their own.

WAL and `synchronous=FULL`: what a transaction has committed survives SIGKILL and power loss, what it has
not is not there. All calls block, so they belong into worker threads.
"""

from __future__ import annotations

import os
import re
import sqlite3
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mlenv_local.wandb_server.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_SECONDS = 30.0
_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


class Store:
    """The database; `before_commit` runs in every writing transaction just before it is committed."""

    def __init__(self, path: Path, before_commit: Callable[[], None] = lambda: None) -> None:
        self.path = path
        self.before_commit = before_commit
        self._lock = threading.RLock()
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._idle: list[sqlite3.Connection] = []
        self._after: list[Callable[[], None]] = []
        self._writer = self._open()
        self._depth = 0
        migrate(self._writer)

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A transaction of the only writer; inside another one of the same thread it is part of that one."""
        with self._lock:
            if self._depth:
                yield self._writer
                return
            self._writer.execute("BEGIN IMMEDIATE")
            self._depth, self._after = 1, []
            try:
                yield self._writer
                self.before_commit()
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise
            finally:
                self._depth = 0
            for action in self._after:
                action()

    def after_commit(self, action: Callable[[], None]) -> None:
        """Run this once the present transaction is committed, before anybody else may write."""
        assert self._depth, "outside of a transaction nothing will be committed"
        self._after.append(action)

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """One consistent view of what is committed, the thread's own if it has one; cannot write."""
        active: sqlite3.Connection | None = getattr(self._local, "active", None)
        if active is not None:
            yield active
            return
        connection = self._reader()
        self._local.active = connection
        connection.execute("BEGIN")
        try:
            yield connection
        finally:
            connection.execute("ROLLBACK")
            self._local.active = None
            self._idle.append(connection)

    def _reader(self) -> sqlite3.Connection:
        """A connection that nobody uses: threads come and go, so connections are not theirs."""
        try:
            return self._idle.pop()
        except IndexError:
            connection = self._open()
            connection.execute("PRAGMA query_only=ON")
            return connection

    def close(self) -> None:
        """Close all connections; no call may be under way."""
        with self._lock:
            for connection in self._opened:
                connection.close()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.row_factory = sqlite3.Row
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")
        self._opened.append(connection)
        return connection


def migrations(folder: Path = MIGRATIONS) -> list[tuple[int, Path]]:
    """All files by number."""
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    numbers = [number for number, _ in found]
    assert len(numbers) == len(set(numbers)), f"two migrations of {folder} have one number"
    return sorted(found)


def migrate(connection: sqlite3.Connection, folder: Path = MIGRATIONS) -> None:
    """Apply what is missing, each file in a transaction of its own; refuse a file of a newer server."""
    connection.execute(
        "CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT"
    )
    done = {row["number"] for row in connection.execute("SELECT number FROM migrations")}
    known = migrations(folder)
    if unknown := done - {number for number, _ in known}:
        raise ServerError(
            f"The database was written by a newer server (migrations {sorted(unknown)}): use that version, or"
            " another data folder."
        )
    for number, path in known:
        if number not in done:
            _apply(connection, number, path)


def _apply(connection: sqlite3.Connection, number: int, path: Path) -> None:
    note = f"INSERT INTO migrations VALUES ({number}, '{path.name}');"  # noqa: S608  (a number and a checked name)
    try:
        connection.executescript(f"BEGIN IMMEDIATE;\n{path.read_text(encoding='utf-8')}\n{note}\nCOMMIT;")
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def sync_folder(folder: Path) -> None:
    """Make a rename in that folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
