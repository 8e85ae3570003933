"""What a run of tests says at its end: pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

PASSED, FAILED, INCOMPLETE = 0, 1, 3


@dataclass(frozen=True)
class Result:
    """How one tier went."""

    tier: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    lacking: str = ""
    """What the machine lacks to run it, as ``need root``."""
    not_run: bool = False
    """Not tried, because something else failed before."""


@dataclass(frozen=True)
class Verdict:
    """Exit code and last line."""

    code: int
    line: str


def judge(results: Sequence[Result], seconds: float) -> Verdict:
    """All results in one line: failures count more than what could not be run, and neither is green."""
    bad = [f"{result.tier} ({result.failed})" for result in results if result.failed]
    if bad:
        untried = ", ".join(result.tier for result in results if result.not_run)
        rest = f"; not run after that: {untried}" if untried else ""
        return Verdict(FAILED, f"FAILED: {', '.join(bad)}{rest}")
    lacking = [result for result in results if result.lacking]
    if lacking:
        names = ", ".join(result.tier for result in lacking)
        reasons = "; ".join(dict.fromkeys(result.lacking for result in lacking))
        return Verdict(INCOMPLETE, f"INCOMPLETE: skipped {names} ({reasons})")
    if not results:
        return Verdict(FAILED, "FAILED: nothing was run")
    passed, skipped = sum(one.passed for one in results), sum(one.skipped for one in results)
    counts = f"{passed} passed, {skipped} skipped" if skipped else f"{passed} passed"
    names = ", ".join(result.tier for result in results)
    return Verdict(PASSED, f"OK: {counts} in {minutes(seconds)} ({names})")


def minutes(seconds: float) -> str:
    """``42 s`` or ``3 min 5 s``."""
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"
