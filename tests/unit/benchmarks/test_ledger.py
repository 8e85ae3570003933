from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_its_small_form_ends_with_its_figures() -> None:
    argv = [sys.executable, ROOT / "benchmarks/ledger.py", "--jobs", "30", "--nodes", "4"]
    argv += ["--live-jobs", "12", "--live-pods", "2", "--live-minutes", "40", "--live-changes", "0.02"]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert set(figures) == {
        "jobs_per_s",
        "bytes_per_job",
        "month_group_by_s",
        "rss_mb",
        "imbalance_nanodollars",
        "operator_cpu_share",
    }
    assert figures["imbalance_nanodollars"] == 0
    assert figures["jobs_per_s"] > 0
    assert figures["operator_cpu_share"] > 0
    assert "12 live jobs of 2 pods for 40 minutes" in done.stdout
