"""``./run bench``: benchmarks are scripts in ``benchmarks/`` that print ratios measured in one run."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from tasks.process import ROOT, TaskError, say
from tasks.process import run as execute

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FOLDER = ROOT / "benchmarks"


def found() -> dict[str, Path]:
    """All of them by name. A file must not hide a module of its name: `wandb_.py` is called `wandb`."""
    return {path.stem.rstrip("_"): path for path in sorted(FOLDER.glob("[a-z]*.py"))}


def run(name: str | None, rest: Sequence[str]) -> int:
    """Runs one benchmark, or lists them."""
    there = found()
    if name is None:
        say(
            "\n".join(f"{one:<20} {_first_line(path)}" for one, path in there.items()) or "No benchmarks yet."
        )
        return 0
    if name not in there:
        raise TaskError(f'There is no benchmark "{name}". There are: {", ".join(there) or "none yet"}.')
    return execute(("python", str(there[name]), *rest)).code


def _first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
