"""Every test of the ledger runs on SQLite, in the tier `unit`, and on PostgreSQL, in the tier `postgres`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ledgers
import postgres
import pytest

from mlenv_operator.ledger.ledger import open_ledger
from mlenv_operator.ledger.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mlenv_operator.ledger.ledger import Ledger


@pytest.fixture(scope="session")
def server() -> Iterator[postgres.Server]:
    with postgres.server() as one:
        yield one


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def new_dsn(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Makes a new, empty database each time."""
    if request.param == "postgresql":
        server: postgres.Server = request.getfixturevalue("server")
        return server.database
    made: list[int] = []

    def sqlite() -> str:
        made.append(1)
        return f"sqlite:///{tmp_path}/ledger{len(made)}.db"

    return sqlite


@pytest.fixture
def dsn(new_dsn: Callable[[], str]) -> str:
    return new_dsn()


@pytest.fixture
def book() -> ledgers.Book:
    return ledgers.Book()


@pytest.fixture
def new_ledger(new_dsn: Callable[[], str], book: ledgers.Book) -> Iterator[Callable[[], Ledger]]:
    """Makes a new ledger each time, taken over by the writer of term 1."""
    made: list[Ledger] = []

    def make() -> Ledger:
        one = open_ledger(new_dsn(), book)
        one.begin(Writer(1, "operator"))
        made.append(one)
        return one

    yield make
    for one in made:
        one.database.close()


@pytest.fixture
def ledger(new_ledger: Callable[[], Ledger]) -> Ledger:
    return new_ledger()
