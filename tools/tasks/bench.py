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


def run(name: str | None, rest: Sequence[str]) -> int:
    """Runs one benchmark, or lists them."""
    found = {path.stem: path for path in sorted(FOLDER.glob("[a-z]*.py"))}
    if name is None:
        say(
            "\n".join(f"{stem:<20} {_first_line(path)}" for stem, path in found.items())
            or "No benchmarks yet."
        )
        return 0
    if name not in found:
        raise TaskError(f'There is no benchmark "{name}". There are: {", ".join(found) or "none yet"}.')
    return execute(("python", str(found[name]), *rest)).code


def _first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
