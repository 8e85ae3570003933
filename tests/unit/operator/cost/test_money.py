"""Money and time as text: exact, or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlenv_operator.cost.money import format_dollars, format_time, parse_dollars, parse_time


@pytest.mark.parametrize(
    ("text", "nanos"),
    [
        ("55.040000", 55_040_000_000),
        ("21.957642", 21_957_642_000),
        ("0.000000001", 1),
        ("0.1", 100_000_000),
        ("7", 7_000_000_000),
        ("1.10000000000", 1_100_000_000),
        ("999999999.999999999", 999_999_999_999_999_999),
    ],
)
def test_a_decimal_number_is_read_exactly(text: str, nanos: int) -> None:
    assert parse_dollars(text) == nanos


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "nan",
        "NaN",
        "inf",
        "-1",
        "+1",
        "1e3",
        ".5",
        "5.",
        "1,5",
        "1_0",
        "$5",
        "٣",
        "0.0000000001",
        "1 ",
    ],
)
def test_what_is_no_such_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="decimal"):
        parse_dollars(text)


@given(st.integers(0, 10**18 - 1))
def test_money_survives_being_written(nanos: int) -> None:
    assert parse_dollars(format_dollars(nanos)) == nanos


def test_a_correction_can_be_written() -> None:
    assert format_dollars(-1_500_000_000) == "-1.5"


@given(st.integers(0, 4_000_000_000_000_000))
def test_time_survives_being_written(micros: int) -> None:
    assert parse_time(format_time(micros)) == micros


def test_a_date_is_its_midnight_in_utc() -> None:
    assert parse_time("1970-01-02") == 86_400_000_000
    assert parse_time("1970-01-01T01:00:00+01:00") == 0
    assert parse_time("2026-07-20T13:44:30Z") == parse_time("2026-07-20") + 49_470_000_000


@pytest.mark.parametrize("text", ["", "yesterday", "2026-02-30", "2026-07-20T13:44:30", "2026-07-20 13:44"])
def test_a_time_that_could_be_two_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no date|does not say"):
        parse_time(text)
