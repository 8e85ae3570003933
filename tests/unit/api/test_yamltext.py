from __future__ import annotations

from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from mlenv_api.yamltext import dump

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SCALARS = st.none() | st.booleans() | st.integers() | TEXT
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(TEXT.filter(bool), VALUES, min_size=1, max_size=4))
def test_every_parser_reads_back_what_was_written(value: dict[str, Any]) -> None:
    assert yaml.safe_load(dump(value)) == value


def test_words_that_yaml_would_take_for_something_else_are_quoted() -> None:
    value = {"a": "None", "b": "yes", "c": "1", "d": "~", "e": "x: y", "f": "- x", "g": "#", "h": ""}
    assert yaml.safe_load(dump(value)) == value


def test_block_style() -> None:
    assert dump({"a": {"b": [{"c": 1, "d": []}, "e"]}}) == "a:\n  b:\n  - c: 1\n    d: []\n  - e\n"
