"""What is in the repository: nothing of one machine, nothing big, no test that no command runs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from tasks.tiers import TIERS  # noqa: E402  (it lives beside the packages, not in one)

# Put together, so that this file does not name what it forbids.
FORBIDDEN = tuple(
    first + second for first, second in (("/wo", "rk/"), ("/tmp/t", "eam"), ("/root", "/.pyenv"))
)
BIGGEST = 1_000_000
ALLOWED_IN_API = {*sys.stdlib_module_names, "pydantic", "pydantic_core", "annotated_types", "mlenv_api"}


@cache
def tracked() -> tuple[Path, ...]:
    """Files of the repository; where git does not know it (an archive), all but what tools left."""
    command = ["git", "-c", "safe.directory=*", "-C", str(ROOT), "ls-files", "-z"]
    listed = subprocess.run(command, check=False, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return tuple(path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file())


def test_nothing_names_one_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in tracked()
        for word in FORBIDDEN
        if word.encode() in path.read_bytes()
    ]
    assert found == []


def test_nothing_is_big() -> None:
    assert [str(path) for path in tracked() if path.stat().st_size > BIGGEST] == []


def test_every_test_belongs_to_a_tier() -> None:
    folders = {path.relative_to(ROOT / "tests").parts[0] for path in (ROOT / "tests").rglob("test_*.py")}
    assert folders <= {path.removeprefix("tests/") for tier in TIERS for path in tier.paths}


def test_marks_are_where_their_tier_looks() -> None:
    folders = {tier.marks: tier.paths for tier in TIERS if tier.cluster}
    astray = [
        f"{path.relative_to(ROOT)}: {mark}"
        for path in (ROOT / "tests").rglob("test_*.py")
        for mark in marks_in(path) & folders.keys()
        if not any(path.is_relative_to(ROOT / folder) for folder in folders[mark])
    ]
    assert astray == []


def marks_in(path: Path) -> set[str]:
    """Names X of every pytest.mark.X in the code, not in its texts."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return {node.attr for node in nodes if ast.unparse(node.value) == "pytest.mark"}


def test_the_api_imports_pydantic_and_nothing_else() -> None:
    imported = {name for path in (ROOT / "api").rglob("*.py") for name in roots_imported(path)}
    assert imported - ALLOWED_IN_API == set()


def roots_imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_the_operators_source_root_is_no_package() -> None:
    assert not (ROOT / "operator" / "__init__.py").exists(), "it would shadow the standard library's operator"


def test_ci_runs_the_command_of_the_readme() -> None:
    command = "./run test"
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert lines[-1] == f"exec {command}"
    assert f"    {command} " in (ROOT / "README.md").read_text(encoding="utf-8")


def test_links_in_documents_lead_somewhere() -> None:
    broken = [
        f"{path.relative_to(ROOT)}: {link}"
        for path in tracked()
        if path.suffix == ".md"
        for link in links_in(path.read_text(encoding="utf-8"))
        if not (path.parent / link).exists()
    ]
    assert broken == []


def links_in(text: str) -> list[str]:
    """Relative links of a document, without anchors; code is no text."""
    prose = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    return [link for link in re.findall(r"\]\(([^)#\s]+)", prose) if "://" not in link]
