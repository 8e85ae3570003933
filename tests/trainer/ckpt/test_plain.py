"""What is not a tensor survives as JSON, exactly; what cannot is told by its place."""

from __future__ import annotations

import math
import random
from collections import OrderedDict, defaultdict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlenv.ckpt import plain, rng
from mlenv.ckpt.errors import SealInvalid, StateInvalid


def through(value: Any) -> Any:
    """Written, and read again."""
    import json

    held: dict[str, torch.Tensor] = {}
    text = plain.dumps(plain.encode(value, "x", held.__setitem__))
    return plain.decode(json.loads(text), held.__getitem__)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.sets(st.integers())
    ),
    max_leaves=20,
)


@given(values)
def test_comes_back_as_it_was(value: Any) -> None:
    back = through(value)
    assert back == value
    assert type(back) is type(value)


def test_numbers_of_every_kind() -> None:
    assert math.isnan(through(math.nan))
    assert [through(one) for one in (math.inf, -math.inf, 5e-324, 0.1)] == [math.inf, -math.inf, 5e-324, 0.1]
    assert math.copysign(1, through(-0.0)) == -1
    array = np.arange(6, dtype=np.int16).reshape(2, 3)
    assert through({"a": array})["a"].tobytes() == array.tobytes()
    assert through(np.float32(0.1)) == np.float32(0.1)
    assert through(torch.bfloat16) is torch.bfloat16


def test_the_order_of_names_is_kept() -> None:
    assert list(through({"b": 1, "a": 2})) == ["b", "a"]
    assert through(OrderedDict(z=1)) == {"z": 1}
    assert through(defaultdict(int, {1: 2})) == {1: 2}


def test_tensors_are_handed_over_by_path() -> None:
    held: dict[str, torch.Tensor] = {}
    tree = plain.encode({"a": [1, {"b": torch.ones(2)}]}, "thing", held.__setitem__)
    assert list(held) == ["thing.a.1.b"]
    assert tree["a"][1]["b"] == {"$tensor": "thing.a.1.b"}


@pytest.mark.parametrize("value", [object(), lambda: 1, {1, "a"} and {"x": print}, [range(3)]])
def test_what_cannot_be_kept_is_told_by_its_place(value: Any) -> None:
    with pytest.raises(StateInvalid, match=r"net\.deep.* which a checkpoint cannot keep"):
        plain.encode({"deep": value}, "net", lambda *_: None)


@pytest.mark.parametrize(
    "value",
    [
        {"$code": "1"},
        {"$dtype": "nn"},
        {"$dtype": "load"},
        {"$array": ["O", [1], "AAAAAAAAAAA=", False]},
        {"$array": ["<i4", [99], "AAAA", False]},
        {"$bytes": "***"},
        {"$small": ["float32", [2], "AAAA"]},
        {"$tuple": 3},
    ],
)
def test_tags_that_make_no_sense_are_refused(value: Any) -> None:
    with pytest.raises(SealInvalid, match="cannot be read"):
        plain.decode(value, lambda path: path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.int64, torch.complex64])
def test_small_tensors_bit_for_bit(dtype: torch.dtype) -> None:
    one = torch.tensor([[0, 1], [1, 0]]).to(dtype)
    assert torch.equal(plain.decode(plain.encode_tensor(one), str), one)


def test_generators_go_on_where_they_were() -> None:
    kept = rng.capture()
    expected = (random.random(), np.random.rand(), torch.rand(1))  # noqa: NPY002
    random.random(), np.random.rand(3), torch.rand(7)  # noqa: NPY002
    rng.restore(kept)
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected  # noqa: NPY002


def test_counted_seeds_differ_in_every_count() -> None:
    seeds = {rng.fold(seed, step, rank) for seed in range(3) for step in range(20) for rank in range(20)}
    assert len(seeds) == 1200
    assert all(0 <= one < 2**63 for one in seeds)
