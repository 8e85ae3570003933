"""Counter-based randomness: every number is a pure function of a key and a counter; none has to be stored.

SplitMix64's finalizer, written out here because the streams of library generators may change between
versions, and an order that a checkpoint speaks of must not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Words: TypeAlias = NDArray[np.uint64]
    Indices: TypeAlias = NDArray[np.int64]

MASK: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15
_ROUNDS: Final = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def fold(*parts: int) -> int:
    """One key of 64 bits out of several numbers; their order matters."""
    key = 0
    for part in parts:
        key = int(mix(np.array([(key ^ (part & MASK)) & MASK], np.uint64))[0])
    return key


def mix(counters: Words) -> Words:
    """64 well-mixed bits for each counter; a bijection, so different counters never collide."""
    word = counters + np.uint64(_GOLDEN)
    for shift, factor in _ROUNDS:
        word ^= word >> np.uint64(shift)
        word *= np.uint64(factor)
    word ^= word >> np.uint64(31)
    return word


def keyed(key: int, counters: Words) -> Words:
    """64 bits for each counter under `key`."""
    return mix(mix(counters ^ np.uint64(key & MASK)) + np.uint64(key & MASK))


def permutation(count: int, key: int) -> Indices:
    """The numbers below `count` in an order that depends on `key` alone; every order is as likely.

    Sorts keyed words that carry their index in the low bits: unique, so that no sorting algorithm of any
    NumPy can order them differently.
    """
    bits = np.uint64(max(1, (count - 1).bit_length()))
    index = np.arange(count, dtype=np.uint64)
    words = (keyed(key, index) << bits) | index
    words.sort()
    return (words & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)


def uniform(key: int, counters: Words) -> NDArray[np.float64]:
    """Numbers in [0, 1), one for each counter."""
    return (keyed(key, counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(key: int, counters: Words) -> NDArray[np.float64]:
    """Standard normal numbers, one for each counter."""
    radius = np.sqrt(-2.0 * np.log1p(-uniform(fold(key, 1), counters)))
    return np.asarray(radius * np.cos(2.0 * np.pi * uniform(fold(key, 2), counters)), np.float64)


def witness(ids: Indices) -> int:
    """A number for a multiset of sample ids: the sum modulo 2**64 of their hashes.

    Sums of disjoint parts add up, in any order, so ranks need not talk; a lost, doubled or foreign sample
    changes it (two different multisets agree by chance once in 2**64).
    """
    return int(keyed(_GOLDEN, ids.astype(np.uint64)).sum(dtype=np.uint64))


def hash_bytes(data: NDArray[np.uint8], offsets: Indices) -> Words:
    """FNV-1a, finished by `mix`, of each byte string data[offsets[i]:offsets[i+1]]; stable for ever."""
    lengths = np.diff(offsets)
    words = np.full(len(lengths), 0xCBF29CE484222325, np.uint64)
    longest_first = np.argsort(-lengths, kind="stable")
    descending = -lengths[longest_first]
    for place in range(int(lengths.max(initial=0))):
        # Only strings longer than `place`; each round touches fewer.
        active = longest_first[: np.searchsorted(descending, -place, side="left")]
        words[active] = (words[active] ^ data[offsets[active] + place]) * np.uint64(0x100000001B3)
    return mix(words)
