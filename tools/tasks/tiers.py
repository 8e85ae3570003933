"""The tiers of tests, from the quick and pure to the real cluster."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Tier:
    """Tests that are run together, in a pytest of their own."""

    name: str
    paths: tuple[str, ...]
    quick: bool = False
    """Whether it takes a minute at most, and so is run before all that takes longer."""
    cluster: bool = False
    """Whether it needs root and what the local cluster needs."""
    server: bool = False
    """Whether it needs PostgreSQL."""
    browser: bool = False
    """Whether it needs Chromium."""
    prometheus: bool = False
    """Whether it needs Prometheus."""
    marks: str = "not e2e and not api and not postgres and not browser and not prometheus"
    """Which of the tests below the paths belong to it."""

    def pytest(self, report: Path, *, slow: bool) -> tuple[str, ...]:
        """The command; pytest itself makes an empty selection an error."""
        marks = self.marks if slow else f"({self.marks}) and not slow"
        options = ("--durations=5", "--durations-min=1", f"--junitxml={report}")
        return ("python", "-m", "pytest", *self.paths, "-m", marks, *options)


TIERS = (
    Tier("unit", ("tests/unit", "tests/oracle"), quick=True),
    Tier("quality", ("tests/quality",), quick=True),
    Tier("transitions", ("tests/transitions",), quick=True),
    Tier("golden", ("tests/golden",), quick=True),
    Tier("contract", ("tests/contract",), quick=True),
    Tier("trainer", ("tests/trainer",)),
    Tier("local", ("tests/local",)),
    Tier("postgres", ("tests/unit/operator/ledger",), server=True, marks="postgres"),
    Tier("browser", ("tests/local/wandb",), browser=True, marks="browser"),
    Tier("prometheus", ("tests/prometheus",), prometheus=True, marks="prometheus"),
    Tier("api", ("tests/api", "tests/golden/chart"), cluster=True, server=True, marks="api"),
    Tier("e2e", ("tests/local", "tests/e2e"), cluster=True, marks="e2e"),
)


@dataclass(frozen=True)
class Counts:
    """How many tests of a run passed, failed and were skipped."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0


def read_counts(report: Path) -> Counts:
    """Counts from pytest's report; none when it was not written."""
    if not report.is_file():
        return Counts()
    suites = list(ET.parse(report).getroot().iter("testsuite"))  # noqa: S314  (pytest wrote it just now)
    total, failed, skipped = (
        sum(int(suite.get(name, 0)) for suite in suites for name in names)
        for names in (("tests",), ("failures", "errors"), ("skipped",))
    )
    return Counts(passed=total - failed - skipped, failed=failed, skipped=skipped)
