"""Checks that need no test: formatting, rules, types, layers, generated files."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.process import run as execute
from tasks.process import say

PACKAGES = ("mlenv_api", "mlenv_operator", "mlenv", "mlenv_sdk", "mlenv_local", "tasks")


@dataclass(frozen=True)
class Check:
    """A program whose exit code 0 means that all is well."""

    name: str
    argv: tuple[str, ...]
    cure: str = ""
    """The command that mends it."""


CHECKS = (
    Check("rules", ("ruff", "check", "."), "ruff check --fix"),
    Check("format", ("ruff", "format", "--check", "."), "ruff format"),
    *(Check(f"types of {package}", ("mypy", "--strict", "-p", package)) for package in PACKAGES),
    Check("types of the benchmarks", ("mypy", "--strict", "benchmarks")),
    Check("layers", ("lint-imports", "--no-cache")),
    Check("definitions", ("python", "-m", "mlenv_api.crd", "--check"), "python -m mlenv_api.crd"),
    Check("reference", ("python", "-m", "mlenv_api.reference", "--check"), "python -m mlenv_api.reference"),
)


def run() -> int:
    """Runs all checks; 1 if one of them fails."""
    return 1 if failing() else 0


def failing() -> list[str]:
    """Runs all checks, and names those that fail."""
    say("checks")
    return [check.name for check in CHECKS if not _passes(check)]


def _passes(check: Check) -> bool:
    ended = execute(check.argv, quiet=True)
    passed = ended.code == 0
    say(f"  {'ok  ' if passed else 'FAIL'}  {check.name:<26} {ended.seconds:5.1f} s")
    if not passed:
        say(ended.output.rstrip())
        if check.cure:
            say(f"  mend it with: {check.cure}")
    return passed
