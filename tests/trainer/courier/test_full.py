"""A spool without any room left: that is told, and what is sealed there gets into the store all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from bench import put

from mlenv.courier import pages
from mlenv_api import names

if TYPE_CHECKING:
    from pathlib import Path

    from bench import Pod

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root mounts file systems")

MOUNT = """
mount --make-rprivate /
mkdir "$1"
mount -t tmpfs -o size="$2" tmpfs "$1"
"""
"""In a mount namespace of its own, so that nothing is left mounted."""


def on_a_small_disk(folder: Path, size: str, script: str, *args: str, **env: str) -> tuple[int, str, str]:
    """Run a shell script whose $1 is a folder with so much room; (exit code, output, errors)."""
    argv = ["unshare", "-m", "sh", "-ec", MOUNT + script, "sh", str(folder), size, *args]
    done = subprocess.run(
        argv, env={**os.environ, **env}, capture_output=True, text=True, timeout=300, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_a_page_is_told_where_there_is_room_for_no_other(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from mlenv.courier import pages
from mlenv_api.protocol import Degraded
report = pages.Report(degraded=Degraded(reason=sys.argv[2], message="x" * 900))
pages.write(Path(sys.argv[1]), pages.REPORT, report)
"""
    script = """
    "$3" -c "$4" "$1" First
    head -c 10M /dev/zero > "$1/ballast" 2>/dev/null || true
    "$3" -c "$4" "$1" Second
    cat "$1/report.json"
    """
    code, out, err = on_a_small_disk(tmp_path / "disk", "64k", script, sys.executable, program)
    assert code == 0, err
    found = pages.Report.model_validate_json(out)
    assert found.degraded is not None
    assert found.degraded.reason == "Second"


@pytest.mark.slow
def test_what_cannot_be_read_back_for_want_of_room_is_told_and_not_stored_twice(
    pod: Pod, tmp_path: Path
) -> None:
    put(pod.folder, 100, size=400_000)
    script = """
    cp -a "$3" "$1/checkpoints"
    mkdir "$1/courier"
    echo '{}' > "$1/courier/report.json"
    head -c 10M /dev/zero > "$1/ballast" 2>/dev/null || true
    "$4" -m mlenv.courier --once --patience 60 || echo "exit code $?"
    cat "$1/courier/report.json"
    """
    folder = tmp_path / "disk"
    env = {**pod.env, names.ENV_COURIER: str(folder / "courier")}
    code, out, err = on_a_small_disk(folder, "600k", script, str(pod.folder), sys.executable, **env)
    assert code == 0, err
    first, _, page = out.partition("\n")
    assert first == "exit code 1"
    assert "No space left on device" in err
    assert "What is sealed in the spool stays there" in err
    found = pages.Report.model_validate_json(page)
    assert found.degraded is not None
    assert "No space left on device" in found.degraded.message
    pod.carry()
    assert pod.stored() == [(100, 1, True)]
    assert [one.name.rpartition(":")[2] for one in pod.store.heads()] == ["v0"]
