"""PriceBooks as objects: read exactly, refused as a whole, and told so."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import pytest

from mlenv_api.pricebook import PriceBookStatus
from mlenv_operator.adapters.pricefiles import shipped_hardware, shipped_rows
from mlenv_operator.cost.books import BookView, read_book, status_of
from mlenv_operator.cost.facts import DOLLAR
from mlenv_operator.cost.money import parse_time

Raw = dict[str, Any]
NOW = datetime(2026, 11, 25, 20, tzinfo=UTC)
LATER = datetime(2026, 11, 26, tzinfo=UTC)


def price(type_: str = "p5.48xlarge", paid: str = "41.28", **match: str) -> Raw:
    wanted = {"provider": "aws", "region": "us-east-1", "instanceType": type_, **match}
    return {"match": wanted, "perHour": paid, "from": "2026-11-01T00:00:00Z"}


def raw(*prices: Raw, generation: int = 1, **spec: Any) -> Raw:
    return {
        "metadata": {"name": "contract", "uid": "u", "generation": generation},
        "spec": {"source": "our contract", "asOf": "2026-11-01T00:00:00Z", "prices": list(prices), **spec},
    }


def read(*prices: Raw, generation: int = 1, **spec: Any) -> BookView:
    return read_book(raw(*prices, generation=generation, **spec), shipped_hardware(), shipped_rows())


def test_a_price_becomes_a_row() -> None:
    whole = price() | {"listPerHour": "55.04", "to": "2026-12-01T00:00:00+01:00"}
    [row] = read(whole, priority=7).rows
    assert (row.provider, row.region, row.instance_type, row.capacity_type) == (
        "aws",
        "us-east-1",
        "p5.48xlarge",
        "on-demand",
    )
    assert (row.effective_nanos_per_hour, row.list_nanos_per_hour) == (41_280_000_000, 55_040_000_000)
    assert (row.since, row.until) == (parse_time("2026-11-01"), parse_time("2026-11-30T23:00:00Z"))
    assert (row.priority, row.as_of, row.source) == (
        7,
        parse_time("2026-11-01"),
        "PriceBook contract: our contract",
    )


def test_without_a_list_price_the_paid_one_stands_for_it() -> None:
    [row] = read(price(paid="1.5")).rows
    assert row.list_nanos_per_hour == row.effective_nanos_per_hour == 3 * DOLLAR // 2


def test_a_book_has_priority_over_what_ships_unless_it_says_otherwise() -> None:
    assert [row.priority for row in read(price()).rows] == [100]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (price(paid="0"), "spec.prices[1]: the price is 0"),
        (price(paid="700"), "spec.prices[1]: aws us-east-1 p5.48xlarge on-demand: 700.0 is a catalog's word"),
        (price(paid="5.00"), "for one H100, where 6.88 is usual"),
        (price(paid="1e3"), "spec.prices[1].perHour: String should match pattern"),
        (price(capacityType="capacity-block"), "name the block in reservation"),
        (price(capacityType="free"), "spec.prices[1].match.capacityType"),
        (price() | {"to": "2026-10-01T00:00:00Z"}, "it ends before it begins"),
        ({"match": {}}, "spec.prices[1].match.provider: Field required"),
        (price("g5.xlarge", "2"), "another row gives the same machines another price"),
    ],
)
def test_one_wrong_row_refuses_the_book_and_says_which(wrong: Raw, said: str) -> None:
    view = read(price("g5.xlarge", "1.006"), wrong)
    assert any(said in error for error in view.errors), view.errors


def test_what_only_looks_odd_is_a_warning() -> None:
    view = read(price("g99.metal", "3"))
    assert view.errors == ()
    assert ["unknown-hardware" in one for one in view.warnings] == [True]


def status(view: BookView, used: BookView | None, before: PriceBookStatus | None = None) -> PriceBookStatus:
    return status_of(view, used, before or PriceBookStatus(), NOW)


def conditions(of: PriceBookStatus) -> dict[str, tuple[str, str]]:
    return {one.type: (one.status, one.reason) for one in of.conditions}


def test_the_status_of_a_book_in_use() -> None:
    view = read(price())
    made = status(view, view)
    assert (made.observed_generation, made.accepted_generation, made.accepted_prices) == (1, 1, 1)
    assert conditions(made) == {"Ready": ("True", "PricesAccepted"), "Stalled": ("False", "PricesAccepted")}
    assert made.conditions[0].message == (
        "1 prices are in use. What was charged at another price stays as it is"
    )


def test_the_status_of_a_refused_book_says_what_stands_and_what_to_do() -> None:
    good, bad = read(price()), read(price(paid="0"), generation=2)
    made = status(bad, good)
    assert (made.observed_generation, made.accepted_generation, made.accepted_prices) == (2, 1, 1)
    assert conditions(made) == {"Ready": ("False", "InvalidSpec"), "Stalled": ("True", "InvalidSpec")}
    assert made.conditions[1].message == (
        "the 1 prices of generation 1 stay in use, because spec.prices[0]: the price is 0, which no machine"
        " costs: remove the row, or give its price [zero]. Correct the spec"
    )
    assert "none of its prices is in use" in status(bad, None).conditions[0].message


def test_many_mistakes_fit_into_a_status() -> None:
    made = status(read(*[price(paid="0")] * 900), None)
    assert "(and 895 more)" in made.conditions[0].message
    assert len(made.conditions[0].message) <= 2048


def test_what_says_the_same_again_is_the_same_and_a_change_has_its_time() -> None:
    view = read(price())
    first = status(view, view)
    assert status_of(view, view, PriceBookStatus.model_validate(first.wire()), LATER) == first
    refused = status_of(read(price(paid="0"), generation=2), view, first, LATER)
    assert {one.last_transition_time for one in refused.conditions} == {LATER}


def test_reading_never_raises() -> None:
    for broken in ({}, {"spec": None}, {"spec": {"prices": 3}}, {"spec": {"asOf": "soon", "source": "x"}}):
        body = copy.deepcopy({"metadata": {"name": "x", "uid": "u"}, **broken})
        assert read_book(body).errors
