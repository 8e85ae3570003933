"""The pure parts and the store."""

from __future__ import annotations

import json
import sqlite3
import threading
from typing import TYPE_CHECKING, Any

import pytest
from graphql import validate

from mlenv_local.wandb_server import accounts, console, filters, ids, lines, pages, runs, store
from mlenv_local.wandb_server.errors import NotFound, Refused, ServerError
from mlenv_local.wandb_server.gql import Schema
from mlenv_local.wandb_server.store import Store

if TYPE_CHECKING:
    from pathlib import Path


def test_a_page_goes_on_where_the_last_one_ended_whatever_came_or_went() -> None:
    items = list("abcdef")

    def page(items: list[str], after: str | None) -> tuple[str, Any]:
        found = pages.page(items, str, str.upper, 2, after)
        return "".join(edge["node"] for edge in found["edges"]), found["pageInfo"]

    first, info = page(items, None)
    assert (first, info["hasNextPage"]) == ("AB", True)
    assert page(items, info["endCursor"])[0] == "CD"
    assert page(["new", *items], info["endCursor"])[0] == "CD"
    assert page(list("acdef"), info["endCursor"])[0] == "CD"
    last, info = page(items, page(items, page(items, None)[1]["endCursor"])[1]["endCursor"])
    assert (last, info["hasNextPage"]) == ("EF", False)
    with pytest.raises(Refused, match="no cursor"):
        page(items, "!!!")


@pytest.mark.parametrize("text", ["", "xyz", "UnVuOg==", "VXNlcjox"])
def test_an_id_of_something_else_is_not_found(text: str) -> None:
    with pytest.raises(NotFound, match="not the id of a Run"):
        ids.parse_int("Run", text)
    assert ids.parse_int("Run", ids.make("Run", 7)) == 7


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("2026-01-02T03:04:05.678 hello", ("hello", "info", "2026-01-02T03:04:05.678Z", "")),
        ("ERROR 2026-01-02T03:04:05 [rank-1] bad", ("bad", "error", "2026-01-02T03:04:05Z", "rank-1")),
        ("only text\n", ("only text", "info", None, "")),
    ],
)
def test_console_lines_lose_the_clients_prefix(line: str, expected: tuple[Any, ...]) -> None:
    found = console.parse(line)
    assert (found.text, found.level, found.timestamp, found.label) == expected


@pytest.mark.parametrize(("count", "wanted"), [(0, 3), (2, 3), (10, 0), (10, 1), (10, 2), (10, 9), (10, 10)])
def test_a_sample_is_even_and_has_both_ends(count: int, wanted: int) -> None:
    chosen = lines.evenly(range(count), wanted)
    assert len(chosen) == min(count, wanted)
    assert len(set(chosen)) == len(chosen)
    if wanted > 1 and count:
        assert (chosen[0], chosen[-1]) == (0, count - 1)


def test_true_is_not_one_in_a_filter() -> None:
    assert not filters.matches({"x": 1}, lambda _: True)
    assert filters.matches({"x": True}, lambda _: True)
    assert filters.matches({"x": None}, lambda _: filters.MISSING)
    assert not filters.matches({"x": {"$gt": "a"}}, lambda _: 1)
    assert not filters.matches({"$nor": [{"x": 1}]}, lambda _: 1)


def test_a_document_is_parsed_and_validated_once() -> None:
    schema = Schema()
    text = "query Viewer { viewer { id } }"
    assert schema.document(text, "") is schema.document(text, "")
    assert schema.document(text, "Viewer").name == "Viewer"
    assert schema.document(text, "Other").errors == ("The document has no operation 'Other'.",)
    assert "no GraphQL" in schema.document("query {", "").errors[0]
    known = schema.document(text, "").node
    assert known is not None
    assert validate(schema.graphql, known) == []


def test_whatever_can_be_asked_has_somebody_to_answer() -> None:
    """A field of Query or Mutation without a resolver would answer null, which is a lie."""
    schema = Schema().graphql
    roots = [schema.query_type, schema.mutation_type]
    fields = [(root.name, name, field) for root in roots if root for name, field in root.fields.items()]
    assert [f"{root}.{name}" for root, name, field in fields if field.resolve is None] == []


def test_input_fields_nobody_knows_are_dropped_only_when_null() -> None:
    schema = Schema()
    document = schema.document("mutation M($i: StopRunInput!) { stopRun(input: $i) { success } }", "")
    assert document.operation is not None
    asked = {"i": {"id": "x", "cloudRegionID": None, "other": 1}}
    assert schema._pruned(document.operation, asked) == {"i": {"id": "x", "other": 1}}


@pytest.fixture
def opened(tmp_path: Path) -> Store:
    opened = Store(tmp_path / "db.sqlite")
    with opened.write() as db:
        db.execute("CREATE TABLE t (x INTEGER)")
    return opened


def test_a_transaction_that_fails_leaves_nothing(opened: Store) -> None:
    done: list[int] = []

    def fail() -> None:
        with opened.write() as db:
            opened.after_commit(lambda: done.append(1))
            with opened.write() as inner:
                inner.execute("INSERT INTO t VALUES (1)")
            db.execute("INSERT INTO t VALUES (?)", ("no number",))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with opened.read() as db:
        assert db.execute("SELECT count(*) FROM t").fetchone()[0] == 0
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            db.execute("INSERT INTO t VALUES (1)")
    assert done == []


def test_writers_wait_for_each_other_and_readers_for_nobody(opened: Store) -> None:
    def add() -> None:
        for _ in range(20):
            with opened.write() as db:
                number = db.execute("SELECT coalesce(max(x), 0) FROM t").fetchone()[0]
                db.execute("INSERT INTO t VALUES (?)", (number + 1,))

    threads = [threading.Thread(target=add) for _ in range(4)]
    with opened.read() as before:
        assert before.execute("SELECT count(*) FROM t").fetchone()[0] == 0
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert before.execute("SELECT count(*) FROM t").fetchone()[0] == 0
    with opened.read() as after:
        assert [row[0] for row in after.execute("SELECT x FROM t ORDER BY x")] == list(range(1, 81))


def test_migrations_are_applied_once_in_order_and_a_newer_file_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "0002_b.sql").write_text("ALTER TABLE a ADD COLUMN y INTEGER;")
    (folder / "0001_a.sql").write_text("CREATE TABLE a (x INTEGER);")
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.row_factory = sqlite3.Row
    for _ in range(2):
        store.migrate(connection, folder)
    (folder / "0003_c.sql").write_text("CREATE TABLE c (x INTEGER); INSERT INTO nowhere VALUES (1);")
    with pytest.raises(sqlite3.OperationalError, match="nowhere"):
        store.migrate(connection, folder)
    assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'c'").fetchone()[0] == 0
    (folder / "0003_c.sql").unlink()
    (folder / "0002_b.sql").unlink()
    with pytest.raises(ServerError, match="newer server"):
        store.migrate(connection, folder)


def test_lines_have_places_of_one_writer_or_of_several(tmp_path: Path) -> None:
    opened = Store(tmp_path / "db.sqlite")
    with opened.write() as db:
        key = accounts.add_user(db, "ada")
        user = accounts.authenticate(db, key)
        run = runs.upsert(db, user, {"name": "one", "modelName": "p"})[0]["id"]
        rows = [json.dumps({"_step": step, "loss": step}) for step in range(4)]
        for _ in range(2):
            lines.write(db, run, "history", 0, rows[:2])
            for writer in ("a", "b"):
                lines.write_shared(db, run, "history", writer=writer, offset=2, content=rows[2:])
        found = [lines.parse(line)["loss"] for _, line in lines.behind(db, run, "history", 0, 100)]
        assert found == [0, 1, 2, 3, 2, 3]
        counted = lines.keys(db, run)
        assert counted["keys"]["loss"]["typeCounts"] == [{"type": "number", "count": 6}]
        assert counted["lastStep"] == 3
