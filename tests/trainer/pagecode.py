"""The programs of docs/training.md, as the page shows them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "training.md"
BLOCK = re.compile(r"^```(python|diff) name=(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Change:
    """A script before and after."""

    before: str
    after: str


def programs() -> dict[str, str]:
    """The named blocks of Python."""
    return {name: code for kind, name, code in BLOCK.findall(PAGE.read_text()) if kind == "python"}


def changes() -> dict[str, Change]:
    """The named diffs; each shows its whole file."""
    return {name: _sides(code) for kind, name, code in BLOCK.findall(PAGE.read_text()) if kind == "diff"}


def _sides(diff: str) -> Change:
    lines = diff.splitlines(keepends=True)
    assert {line[:1] for line in lines} <= {"+", "-", " ", "\n"}, "a diff with its whole context"
    before = "".join(line[1:] or line for line in lines if line[0] != "+")
    after = "".join(line[1:] or line for line in lines if line[0] != "-")
    return Change(before, after)
