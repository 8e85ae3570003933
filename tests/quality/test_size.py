"""The size of things: short functions, short files, everything annotated."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median, quantiles

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("api", "operator", "trainer_image", "sdk", "local", "tools", "examples", "benchmarks")
MEDIAN, P90, LONGEST, FILE = 10, 30, 80, 400


@dataclass(frozen=True)
class Function:
    path: str
    name: str
    lines: int
    annotated: bool


@cache
def source_files() -> tuple[Path, ...]:
    found = (path for folder in SOURCES for path in (ROOT / folder).rglob("*.py"))
    return tuple(sorted(path for path in found if ".venv" not in path.parts))


@cache
def functions() -> tuple[Function, ...]:
    return tuple(function for path in source_files() for function in functions_of(path))


def functions_of(path: Path) -> list[Function]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [Function(str(path.relative_to(ROOT)), node.name, length(node), annotated(node)) for node in nodes]


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the signature and the body, without the docstring."""
    docstring = node.body[0] if ast.get_docstring(node) is not None else None
    taken = docstring.end_lineno - docstring.lineno + 1 if docstring and docstring.end_lineno else 0
    return (node.end_lineno or node.lineno) - node.lineno + 1 - taken


def annotated(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    arguments = node.args
    plain = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    every = [*plain, *(one for one in (arguments.vararg, arguments.kwarg) if one)]
    bare = [one for one in every if one.annotation is None and one.arg not in {"self", "cls"}]
    return not bare and node.returns is not None


def test_functions_are_short_in_the_middle_and_at_the_end() -> None:
    lengths = sorted(function.lines for function in functions())
    p90 = quantiles(lengths, n=10)[-1]
    assert median(lengths) <= MEDIAN
    assert p90 <= P90


def test_no_function_is_long() -> None:
    assert [function for function in functions() if function.lines > LONGEST] == []


def test_every_argument_and_result_is_annotated() -> None:
    assert [f"{one.path}: {one.name}" for one in functions() if not one.annotated] == []


def test_no_file_is_long() -> None:
    counts = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("\n") for path in source_files()
    }
    assert {path: count for path, count in counts.items() if count > FILE} == {}


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("def f() -> None: ...", 1),
        ('def f() -> None:\n    """One."""\n    return None', 2),
        ('async def f() -> None:\n    """One.\n\n    Two.\n    """\n    x = 1\n    return None', 3),
    ],
)
def test_docstrings_do_not_count(source: str, lines: int) -> None:
    node = ast.parse(source).body[0]
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    assert length(node) == lines
