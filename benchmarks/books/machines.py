"""The nodes that a ledger is told of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mlenv_operator.cost.facts import Node

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlenv_operator.cost.facts import Micros

DEVICES: Final = 8
"""Of each."""


def uid_of(number: int) -> str:
    """As long as a real one."""
    return f"node-uid-0000-0000-0000-{number:012d}"


def machines(types: Sequence[str], count: int, created: Micros, deleted: Micros | None = None) -> list[Node]:
    """So many, of these instance types in turns."""
    return [
        Node(
            uid_of(number),
            f"ip-10-0-{number // 256}-{number % 256}",
            "aws",
            "us-east-1",
            "us-east-1a",
            types[number % len(types)],
            ("on-demand", "spot")[number % 2],
            gpus=DEVICES,
            gpu_model="H100",
            created=created,
            deleted=deleted,
        )
        for number in range(count)
    ]
