"""Costs by anything, of all or of some namespaces: nothing is lost, nothing of others is told."""

from __future__ import annotations

import csv
import io
import itertools
import json
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
from ledgers import START, attribution, node, pod, world

from mlenv_operator.cost.facts import HOUR, Attributed, Category, Mark
from mlenv_operator.ledger import asking, telling
from mlenv_operator.ledger.explaining import explain
from mlenv_operator.ledger.questions import DIMENSIONS, Page, QuestionError, parse
from mlenv_operator.ledger.rollups import Amounts

if TYPE_CHECKING:
    from mlenv_operator.ledger.asking import Costs
    from mlenv_operator.ledger.ledger import Ledger

NOW = START + 70 * HOUR


@pytest.fixture
def full(ledger: Ledger) -> Ledger:
    """Three days, with corrections, and one user whose name looks like a formula."""
    ledger.observe(world(7, jobs=12, hours=5))
    ledger.observe([pod("long", "j1", node("n0"), gpus=1, released=START + 60 * HOUR)])
    evil = attribution("evil", "feed", user="=HYPERLINK()")
    ledger.observe([Attributed("uid-evil", START, evil)])
    ledger.observe([pod("e", "evil", node("n0"), gpus=1, released=START + HOUR, namespace="ns-feed")])
    ledger.settle_all(NOW)
    ledger.observe([Mark("uid-long", START + 30 * HOUR + 5, 1, 1, Category.HANG)])
    ledger.settle_all(NOW)
    return ledger


def ask(ledger: Ledger, namespaces: list[str] | None = None, **said: str) -> Costs:
    question = parse(list(said.items()), NOW)
    with ledger.database.reading() as connection:
        return asking.ask(connection, question, namespaces)


@pytest.mark.parametrize("name", DIMENSIONS)
def test_groups_by_anything_add_up_to_the_same_total(full: Ledger, name: str) -> None:
    whole = sum(one.cost for one in full.group(["category"], START, NOW).values())
    found = ask(full, by=name)
    assert found.total.cost == whole
    assert sum(amounts.cost for _, amounts in found.groups) == whole
    assert found.rest == Amounts(0, 0, 0, 0)
    by = name if name == "attempt" else f"{name},attempt"
    assert ask(full, by=by).total == found.total


def test_every_pair_of_dimensions_that_the_ledger_knows_agrees_with_it(full: Ledger) -> None:
    for pair in itertools.combinations(("team", "instance_type", "category", "job", "node"), 2):
        mine = dict(ask(full, by=",".join(pair), sort="key").groups)
        theirs = {key: one for key, one in full.group(pair, START, NOW).items() if any(one)}
        assert mine == theirs, pair


def test_a_month_is_as_it_was_booked(full: Ledger) -> None:
    booked = {key: one for key, one in full.month(["team", "category"], 202501).items() if any(one)}
    assert dict(ask(full, by="team,category", month="2025-01").groups) == booked
    assert ask(full, by="job", month="2025-01").total == ask(full, by="hour", month="2025-01").total
    assert ask(full, month="2024-12").count == 0


def test_somebody_sees_their_namespaces_and_nothing_else(full: Ledger) -> None:
    everything = dict(ask(full, by="namespace").groups)
    for by in ("namespace", "namespace,job", "namespace,day"):
        mine = ask(full, ["ns-ads", "ns-feed"], by=by)
        assert {key[0] for key, _ in mine.groups} == {"ns-ads", "ns-feed"}
        assert mine.total.cost == everything[("ns-ads",)].cost + everything[("ns-feed",)].cost
    assert ask(full, [], by="namespace").count == 0
    assert ask(full, ["ns-ads"], by="category", category="idle").count == 0


def test_filters_are_parts_of_the_whole(full: Ledger) -> None:
    by_team = dict(ask(full, by="team").groups)
    assert ask(full, by="day", team="ads").total == by_team[("ads",)]
    assert ask(full, by="pod", team="ads", job="j1").total == ask(full, by="team", job="j1", team="ads").total
    assert ask(full, by="team", team="' OR 1=1 --").count == 0
    assert ask(full, by="job", category="hang").total == ask(full, by="team", category="hang").total


def test_pages_are_cut_from_one_order_and_say_what_is_missing(full: Ledger) -> None:
    whole = ask(full, by="job,category")
    assert [one.cost for _, one in whole.groups] == sorted(
        (one.cost for _, one in whole.groups), reverse=True
    )
    pages = [ask(full, by="job,category", limit="5", offset=str(at)) for at in range(0, whole.count, 5)]
    assert [group for page in pages for group in page.groups] == whole.groups
    for page in pages:
        assert asking.added([*(one for _, one in page.groups), page.rest]) == page.total == whole.total


def test_too_many_groups_are_refused(full: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "MAX_GROUPS", 3)
    with pytest.raises(QuestionError, match="more than 3 groups"):
        ask(full, by="job,category")


def test_what_takes_too_long_is_ended(full: Ledger) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n"
    database = asking.ReadOnly(full.database.url.render_as_string(hide_password=False), 0.2)
    with pytest.raises(asking.TooSlow, match="ask for less time"), database.reading() as connection:
        connection.exec_driver_sql(endless)
    with database.reading() as connection:
        assert asking.namespaces_of(connection)  # the connection is as good as before
    database.close()


def test_jobs_are_found_by_name_the_newest_first(full: Ledger) -> None:
    full.observe([Attributed("uid-again", START + HOUR, attribution("evil", "feed", job_uid="uid-again"))])
    with full.database.reading() as connection:
        assert asking.jobs_named(connection, "ns-feed", "evil", None) == ["uid-again", "uid-evil"]
        assert asking.jobs_named(connection, "ns-feed", "evil", "uid-evil") == ["uid-evil"]
        assert asking.jobs_named(connection, "ns-ads", "evil", None) == []
        assert asking.jobs_named(connection, "ns-ads", "evil", "uid-evil") == []


def test_all_formats_say_the_same(full: Ledger) -> None:
    question = parse([("by", "user,category"), ("limit", "50000")], NOW)
    found = ask(full, by="user,category", limit="50000")
    document, table = telling.costs(question, found, None), telling.costs_table(question, found)
    told = json.loads(telling.render("json", document, table))
    rows = list(csv.DictReader(io.StringIO(telling.render("csv", document, table).decode())))
    parquet = pq.read_table(io.BytesIO(telling.render("parquet", document, table))).to_pylist()
    costs = [amounts.cost for _, amounts in found.groups]
    assert [int(one["costNanos"]) for one in told["groups"]] == costs
    assert [int(row["cost_nanos"]) for row in rows] == costs
    assert [row["cost_nanos"] for row in parquet] == costs
    assert int(told["total"]["costNanos"]) == sum(costs)
    assert {row["user"] for row in parquet} == {"", "ann", "=HYPERLINK()"}
    assert {row["user"] for row in rows} == {"", "ann", "'=HYPERLINK()"}


def test_a_question_without_answer_has_all_formats_too(full: Ledger) -> None:
    question = parse([("team", "nobody")], NOW)
    found = ask(full, team="nobody")
    table = telling.costs_table(question, found)
    assert telling.as_csv(table).decode().count("\r\n") == 1
    assert pq.read_table(io.BytesIO(telling.as_parquet(table))).num_rows == 0


def test_pages_of_an_explanation_are_the_whole(full: Ledger) -> None:
    whole = full.explain("uid-j1")
    with full.database.reading() as connection:
        pages = [explain(connection, "uid-j1", at, 7) for at in range(0, len(whole) + 1, 7)]
    assert [line for page in pages for line in page] == whole
    document = telling.explanation("ns", "j1", ["uid-j1"], whole, Page(len(whole)))
    assert sum(int(line["costNanos"]) for line in document["lines"]) == full.job("uid-j1", NOW).cost
    assert {line["reason"] for line in document["lines"]} == {"closed", "mark"}
    assert telling.as_csv(telling.explanation_table(whole)).count(b"\r\n") == len(whole) + 1
