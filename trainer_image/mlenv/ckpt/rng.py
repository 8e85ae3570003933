"""The random number generators of one rank: as they are, or as a seed and a count say.

Raw states belong to one rank of one world: they are put back only when the world is as large as it was. In
another world each rank's generators start from (seed, step, rank), the same whenever that world is resumed.
"""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import torch

from mlenv.ckpt import plain


def capture() -> Any:
    """All generators of this process, as JSON-ready data."""
    states = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002  (the global one is what programs use)
        "torch": torch.get_rng_state().numpy(),
        "cuda": torch.cuda.get_rng_state().numpy() if _cuda() else None,
    }
    return plain.encode(states, "rng", _none)


def restore(encoded: Any) -> None:
    """Put back what `capture` gave."""
    states = plain.decode(encoded, _none)
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    torch.set_rng_state(torch.from_numpy(states["torch"]))
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.from_numpy(states["cuda"]))


def start(seed: int, step: int, rank: int) -> None:
    """Start all generators anew for a world that is not the one that saved."""
    own = fold(seed, step, rank)
    random.seed(own)
    np.random.seed(own % 2**32)  # noqa: NPY002
    torch.manual_seed(own)  # type: ignore[no-untyped-call, unused-ignore]


def fold(seed: int, *counts: int) -> int:
    """A seed of 63 bits that depends on every one of the numbers. Pure."""
    text = ",".join(str(one) for one in (seed, *counts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def _cuda() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call, unused-ignore]


def _none(*_: Any) -> Any:
    raise AssertionError("generators hold no tensors in this form")
