"""``./run test``: all checks, then all tiers of tests, then one line that says how it went."""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
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
    chosen = [tier for tier in TIERS if not only or tier.name in only]
    results += [_tier(tier, slow=slow) for tier in chosen if tier.quick]
    failed = any(result.failed for result in results)
    results += _long([tier for tier in chosen if not tier.quick], slow=slow, failed=failed)
    verdict: Verdict = judge(results, time.monotonic() - start)
    say("\n" + verdict.line)
    return verdict.code


def _lint() -> Result:
    failing = checks.failing()
    return Result(LINT, failed=len(failing), passed=len(checks.CHECKS) - len(failing))


def _long(tiers: Sequence[Tier], *, slow: bool, failed: bool) -> list[Result]:
    """Tiers of a cluster mostly wait, so the others run beside them. They run only if nothing failed yet."""
    apart = [tier for tier in tiers if tier.cluster]
    rest = [tier for tier in tiers if not tier.cluster]
    if failed:
        apart_results = [Result(tier.name, not_run=True) for tier in apart]
        return [_tier(tier, slow=slow) for tier in rest] + apart_results
    lacks = {tier.name: _lack(tier) for tier in tiers}  # asks and installs, which no two may do at once
    beside = any(not lacks[tier.name] for tier in apart)
    with ThreadPoolExecutor(1) as lane:
        side = [lane.submit(_tier, tier, slow=slow, beside=True) for tier in rest] if beside else []
        front = [_tier(tier, slow=slow) for tier in (apart if beside else tiers)]
        return [one.result() for one in side] + front


def _tier(tier: Tier, *, slow: bool, beside: bool = False) -> Result:
    """Runs one tier. Beside another one it gives way to it, and what it prints is shown when it has ended."""
    if lack := _lack(tier):
        return Result(tier.name, lacking=lack)
    head = f"\n=== {tier.name} ==="
    say(f"{head[:-4]}, beside the next ===" if beside else head)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = tier.pytest(report, slow=slow)
        ended = execute(("nice", *command), quiet=True) if beside else execute(command)
        counts = read_counts(report)
    if beside:
        say(f"{head}\n{ended.output}")
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
