"""What is asked is read strictly: sense becomes a question, nonsense a sentence."""

from __future__ import annotations

import pytest
from ledgers import START

from mlenv_operator.cost.facts import HOUR
from mlenv_operator.ledger.questions import (
    MAX_GROUPS,
    Page,
    QuestionError,
    chosen_format,
    parse,
    parse_page,
    show_time,
)

NOW = START + 100 * HOUR + 7


def test_nothing_said_is_this_month_by_namespace() -> None:
    question = parse([], NOW)
    assert (question.by, question.since, question.until) == (("namespace",), START, START + 101 * HOUR)
    assert (question.page, question.month, question.where) == (Page(100), None, {})


def test_all_that_can_be_said() -> None:
    question = parse(
        [
            ("by", "team,category"),
            ("by", "day"),
            ("since", "2025-01-02"),
            ("until", "2025-01-03T05:00Z"),
            ("team", "ads"),
            ("team", "feed"),
            ("category", "hang"),
            ("limit", "7"),
            ("offset", "14"),
            ("sort", "key"),
        ],
        NOW,
    )
    assert question.by == ("team", "category", "day")
    assert (question.since - START, question.until - START) == (24 * HOUR, 53 * HOUR)
    assert question.where == {"team": ("ads", "feed"), "category": ("hang",)}
    assert (question.page, question.sort) == (Page(7, 14), "key")


def test_a_month_is_the_one_of_its_bill() -> None:
    question = parse([("month", "2025-02")], NOW)
    assert (question.month, question.since - START) == (202502, 31 * 24 * HOUR)


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([("by", "colour")], "by: there is no 'colour'; there are namespace, team"),
        ([("by", "team,team")], "each only once"),
        ([("by", "team,model,user,queue,zone,region,day")], "at most 6"),
        ([("by", "")], "there is no ''"),
        ([("colour", "red")], "no parameter 'colour'; there are "),
        ([("team", "a\nb")], "printable"),
        ([("team", "x" * 300)], "at most 253"),
        ([("team", str(n)) for n in range(51)], "at most 50 values"),
        ([("category", "'; DROP TABLE charge; --")], "there is no"),
        ([("attempt", "-1")], "attempt must be a whole number"),
        ([("limit", "0")], "limit must be a whole number from 1"),
        ([("limit", str(MAX_GROUPS + 1))], "limit must be"),
        ([("limit", "٣")], "limit must be"),
        ([("limit", "1"), ("limit", "2")], "say it once"),
        ([("offset", "1e3")], "offset must be"),
        ([("since", "yesterday")], "since: 'yesterday' is no date"),
        ([("since", "2025-01-01T05:30Z")], "whole hours"),
        ([("since", "2025-01-03"), ("until", "2025-01-02")], "since must be before until"),
        ([("since", "1971-01-01")], "At most 1830 days"),
        ([("until", "9999-12-31T23:00-14:00")], "until"),
        ([("month", "2025-13")], "no month"),
        ([("month", "0001-01")], "no month"),
        ([("month", "2025-01"), ("since", "2025-01-01")], "not for both"),
        ([("sort", "colour")], "there are cost, key"),
    ],
)
def test_nonsense_is_refused_with_what_to_write_instead(pairs: list[tuple[str, str]], words: str) -> None:
    with pytest.raises(QuestionError) as refusal:
        parse(pairs, NOW)
    assert words in str(refusal.value)


def test_formats_are_chosen_by_name_or_by_the_header() -> None:
    assert chosen_format([], "") == "json"
    assert chosen_format([], "text/html, text/csv;q=0.9, */*") == "csv"
    assert chosen_format([("format", "parquet")], "text/csv") == "parquet"
    with pytest.raises(QuestionError, match="there are json, csv, parquet"):
        chosen_format([("format", "xls")], "")


def test_an_explanation_comes_in_pages() -> None:
    assert parse_page([("limit", "5"), ("uid", "u")]) == (Page(5), "u")
    with pytest.raises(QuestionError, match="no parameter 'team'"):
        parse_page([("team", "ads")])


def test_times_have_microseconds() -> None:
    assert show_time(START + 5) == "2025-01-01T00:00:00.000005Z"
