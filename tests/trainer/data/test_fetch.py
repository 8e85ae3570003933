"""Ranges of bytes: merged, remembered, and tried again."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlenv.data import Unreadable
from mlenv.data.fetch import Fetcher, Sparse, coalesce

BYTES = bytes(range(200))
RANGES = st.lists(
    st.tuples(st.integers(0, 150), st.integers(1, 49)).map(lambda pair: (pair[0], pair[0] + pair[1]))
)


@given(RANGES, st.integers(0, 20), st.integers(1, 100))
def test_merged_ranges_cover_what_was_asked_for(ranges: list[tuple[int, int]], gap: int, most: int) -> None:
    merged = coalesce(ranges, gap, most)
    assert all(any(low <= start and end <= high for low, high in merged) for start, end in ranges)
    assert all(high - low <= most for low, high in set(merged) - set(ranges))
    assert len(merged) <= len(ranges)


@given(RANGES, st.lists(st.tuples(st.integers(0, 220), st.integers(-1, 60))))
def test_a_sparse_file_reads_like_a_whole_one(
    ranges: list[tuple[int, int]], reads: list[tuple[int, int]]
) -> None:
    sparse, whole = Sparse(len(BYTES), lambda start, end: BYTES[start:end]), io.BytesIO(BYTES)
    sparse.load(ranges)
    for at, size in reads:
        assert sparse.seek(at) == whole.seek(at)
        assert bytes(sparse.read(size)) == whole.read(size)
        assert sparse.tell() == whole.tell()


class Store:
    """Answers as it was told to, one thing after the other."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        del path, start, end
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return bytes(answer)


def test_what_may_pass_is_tried_again() -> None:
    store = Store(OSError("503"), b"ab", TimeoutError(), RuntimeError("whatever clients raise"), b"abcd")
    assert Fetcher(store, patience=60).fetch("x", 0, 4) == b"abcd"
    assert store.answers == []


@pytest.mark.parametrize("error", [FileNotFoundError("x"), PermissionError("x"), ValueError("x")])
def test_what_cannot_pass_is_not(error: Exception) -> None:
    store = Store(error, b"abcd")
    with pytest.raises(Unreadable, match=f"data/x cannot be read: {type(error).__name__}"):
        Fetcher(store, patience=60).fetch("data/x", 0, 4)
    assert store.answers == [b"abcd"]


def test_patience_ends() -> None:
    with pytest.raises(Unreadable, match=r"data/x could not be read for 0 s, last: OSError: 2 of 4 bytes"):
        Fetcher(Store(b"ab", b"ab"), patience=0).fetch("data/x", 0, 4)
