"""Counter-based numbers: pure, well mixed, and the same for ever."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from mlenv.data import mix


def test_known_values_never_change() -> None:
    # An order that a checkpoint speaks of hangs on these.
    assert [int(one) for one in mix.mix(np.arange(3, dtype=np.uint64))] == [
        0xE220A8397B1DCDAF,
        0x910A2DEC89025CC1,
        0x975835DE1C9756CE,
    ]
    assert mix.permutation(8, 42).tolist() == [6, 3, 7, 0, 4, 1, 2, 5]
    assert mix.fold(1, 2, 3) == 0xD0734750FDE362B3
    assert mix.witness(np.arange(10)) == 0xA85297D0E174C868
    assert text_hashes("", "a", "user-1") == [0xC3817C016BA4FF30, 0x5F29C2AADD9B8527, 0xF16D8D440FBB25D5]


def text_hashes(*texts: str) -> list[int]:
    encoded = [text.encode() for text in texts]
    offsets = np.cumsum([0, *(len(one) for one in encoded)])
    return [int(one) for one in mix.hash_bytes(np.frombuffer(b"".join(encoded), np.uint8), offsets)]


@pytest.mark.parametrize("count", [0, 1, 2, 7, 64, 1000])
def test_permutations(count: int) -> None:
    assert sorted(mix.permutation(count, 5).tolist()) == list(range(count))


def test_every_order_is_as_likely() -> None:
    counts = Counter(tuple(mix.permutation(4, key).tolist()) for key in range(4800))
    assert len(counts) == 24
    assert all(140 < count < 260 for count in counts.values())  # 200 expected, more than four sigma


def test_uniform_and_normal() -> None:
    counters = np.arange(20_000, dtype=np.uint64)
    assert mix.uniform(1, counters).mean() == pytest.approx(0.5, abs=0.01)
    drawn = mix.normal(1, counters)
    assert (drawn.mean(), drawn.std()) == (pytest.approx(0, abs=0.03), pytest.approx(1, abs=0.03))


def test_witnesses_of_parts_add_up_and_tell_what_is_missing_or_double() -> None:
    ids = np.arange(100)
    whole = mix.witness(ids)
    assert (mix.witness(ids[:30]) + mix.witness(ids[30:][::-1])) % 2**64 == whole
    assert mix.witness(ids[1:]) != whole
    assert mix.witness(np.append(ids, 5)) != whole
    assert mix.witness(np.append(ids[1:], 1)) != whole


def test_texts_hash_by_all_their_bytes() -> None:
    texts = ["", "a", "b", "ab", "ba", "ä", "a" * 100, "a" * 99 + "b", "\0", "\0\0"]
    assert len(set(text_hashes(*texts))) == len(texts)
    assert text_hashes(*texts) == [text_hashes(text)[0] for text in texts]
