"""What can go wrong with a local cluster, as sentences a person can act on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class LocalError(Exception):
    """A sentence that says what happened, where, and what to do."""


class CommandError(LocalError):
    """A command that the cluster depends on ended with an error."""

    def __init__(self, argv: Sequence[str], returncode: int, output: str) -> None:
        self.argv = tuple(argv)
        self.returncode = returncode
        self.output = output.strip()
        super().__init__(f"`{' '.join(argv[:6])}` ended with code {returncode}: {self.output[-2000:]}")


class ComponentError(LocalError):
    """A component of the cluster died or never became ready; carries the end of its log."""

    def __init__(self, component: str, problem: str, log: Path, lines: Sequence[str]) -> None:
        self.component = component
        self.log = log
        tail = "".join(f"\n  | {line}" for line in lines) or "\n  | (the log is empty)"
        super().__init__(f"{component} {problem}; its log is {log} and ends with:{tail}")


class NeedsError(LocalError):
    """The machine lacks something that the local cluster needs."""
