"""The example's data, as the demo gets it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
PREPARE = ROOT / "examples" / "movielens_ranker" / "prepare.py"
TASK = "import sys; from tasks.process import run; sys.exit(run(sys.argv[1:]).code)"


def test_the_data_comes_from_the_package_index_with_what_run_brings_along(tmp_path: Path) -> None:
    """On a machine that has neither uv nor pip on its PATH."""
    if "MLENV_UV" not in os.environ:
        pytest.skip("not begun by ./run, which brings a uv along")
    env = os.environ | {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "tools")}
    subprocess.run([sys.executable, "-c", TASK, "python", str(PREPARE), str(tmp_path)], env=env, check=True)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["ml-100k.inter", "ml-100k.item", "ml-100k.user"]
