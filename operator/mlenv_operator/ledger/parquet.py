"""Questions about closed months, answered from their files alone: no database is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow.dataset as ds

from mlenv_operator.ledger.calendar import show_month
from mlenv_operator.ledger.errors import LedgerError
from mlenv_operator.ledger.months import SCHEMA
from mlenv_operator.ledger.rollups import Amounts
from mlenv_operator.ledger.schema import AMOUNTS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def group(folder: Path, by: Sequence[str], month: int) -> dict[tuple[str, ...], Amounts]:
    """What is booked in the month, by anything."""
    path = folder / f"month={show_month(month)}" / "charges.parquet"
    if not path.exists():
        raise LedgerError(f"There is no {path}: export the month first.")
    if unknown := [name for name in by if name not in SCHEMA.names]:
        raise LedgerError(f"The file has no column {', '.join(unknown)}; it has {', '.join(SCHEMA.names)}.")
    table = ds.dataset(path, format="parquet").to_table(columns=[*by, *AMOUNTS])
    sums = table.group_by(list(by)).aggregate([(name, "sum") for name in AMOUNTS]).to_pydict()
    keys = zip(*(map(str, sums[name]) for name in by), strict=True)
    amounts = zip(*(sums[f"{name}_sum"] for name in AMOUNTS), strict=True)
    return {key: Amounts(*one) for key, one in sorted(zip(keys, amounts, strict=True))}
