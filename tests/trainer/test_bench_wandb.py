"""`./run bench wandb` in small: that it measures at all. How much W&B costs is for people who run it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "wandb_.py"


def test_its_small_form_trains_in_every_state_and_ends_with_its_figures() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--small"], capture_output=True, text=True, check=False, timeout=580
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    ratios = found.pop("training_throughput_ratio")
    assert found.keys() == {"artifact_commit_s_10mb", "artifact_mb_per_s", "history_rows_per_s"}
    assert ratios.keys() == {"healthy", "slow", "dead"}
    assert all(one > 0 for one in (*found.values(), *ratios.values()))
    for state in ("alone", "healthy", "slow", "dead: refused", "dead: 503"):
        assert f"\n{state} " in done.stdout
