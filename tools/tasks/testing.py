"""``./run test``: all checks, then all tiers of tests, then one line that says how it went."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tasks import checks, machine
from tasks.process import run as execute
from tasks.process import say
from tasks.tiers import TIERS, Tier, read_counts
from tasks.verdict import Result, Verdict, judge

if TYPE_CHECKING:
    from collections.abc import Sequence

LINT = "lint"
NAMES = (LINT, *(tier.name for tier in TIERS))


def run(*, only: Sequence[str], slow: bool) -> int:
    """Runs what was asked for, and all unless something was; gives the exit code."""
    start = time.monotonic()
    results = [_lint()] if not only or LINT in only else []
    for tier in TIERS:
        if not only or tier.name in only:
            results.append(_tier(tier, slow=slow, failed=any(result.failed for result in results)))
    verdict: Verdict = judge(results, time.monotonic() - start)
    say("\n" + verdict.line)
    return verdict.code


def _lint() -> Result:
    failing = checks.failing()
    return Result(LINT, failed=len(failing), passed=len(checks.CHECKS) - len(failing))


def _tier(tier: Tier, *, slow: bool, failed: bool) -> Result:
    """Runs one tier. What needs a cluster takes minutes: not after something failed already."""
    if tier.cluster and failed:
        return Result(tier.name, not_run=True)
    if lack := _lack(tier):
        return Result(tier.name, lacking=lack)
    say(f"\n=== {tier.name} ===")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        ended = execute(tier.pytest(report, slow=slow))
        counts = read_counts(report)
    failures = counts.failed or int(ended.code != 0)
    return Result(tier.name, passed=counts.passed, failed=failures, skipped=counts.skipped)


def _lack(tier: Tier) -> str:
    """Why this machine cannot run the tier; empty when it can."""
    asked = (
        (tier.cluster, machine.lack),
        (tier.server, machine.lack_server),
        (tier.browser, machine.lack_browser),
        (tier.prometheus, machine.lack_prometheus),
    )
    return next((lack for needed, look in asked if needed and (lack := look())), "")
