"""Data with a position: the same samples in the same order whatever world, workers and restarts do.

Names are loaded when first used; pyarrow and fsspec only when files are read, so that a process which imports
this package can still be forked.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mlenv.data import synthetic
    from mlenv.data.batch import Batch, Ragged
    from mlenv.data.errors import DataError, Exhausted, SchemaMismatch, StateRefused, Unreadable
    from mlenv.data.evaluation import Evaluation
    from mlenv.data.parquet import Parquet
    from mlenv.data.position import merge
    from mlenv.data.stream import Stream

__all__ = [
    "Batch",
    "DataError",
    "Evaluation",
    "Exhausted",
    "Parquet",
    "Ragged",
    "SchemaMismatch",
    "StateRefused",
    "Stream",
    "Unreadable",
    "merge",
    "synthetic",
]

_HOMES: Final = {
    "Batch": "batch",
    "DataError": "errors",
    "Evaluation": "evaluation",
    "Exhausted": "errors",
    "Parquet": "parquet",
    "Ragged": "batch",
    "SchemaMismatch": "errors",
    "StateRefused": "errors",
    "Stream": "stream",
    "Unreadable": "errors",
    "merge": "position",
}


def __getattr__(name: str) -> Any:
    if name == "synthetic":
        return import_module("mlenv.data.synthetic")
    if name not in _HOMES:
        raise AttributeError(f"module 'mlenv.data' has no attribute {name!r}")
    return getattr(import_module(f"mlenv.data.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
