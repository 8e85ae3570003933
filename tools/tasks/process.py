"""Running programs, and where everything is."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


class TaskError(Exception):
    """A task could not be done; the text is a sentence that says why and what to do."""


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    code: int
    seconds: float
    output: str = ""


def run(argv: Sequence[str], *, quiet: bool = False) -> Ended:
    """Runs a program of the environment in the root of the repository.

    Its output goes to the terminal, or with ``quiet`` into the result.
    """
    sys.stdout.flush()
    start = time.monotonic()
    done = subprocess.run(
        [_program(argv[0]), *argv[1:]],
        cwd=ROOT,
        env=environment(),
        check=False,
        text=True,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
    )
    return Ended(done.returncode, time.monotonic() - start, done.stdout or "")


def environment() -> dict[str, str]:
    """This process's environment: programs of the virtual environment are found first, our own uv last."""
    places = [str(BIN), os.environ.get("PATH", os.defpath)]
    if uv := os.environ.get("MLENV_UV"):
        places.append(str(Path(uv).parent))
    return os.environ | {"PATH": os.pathsep.join(places)}


def _program(name: str) -> str:
    """The program of the virtual environment, else the one on PATH."""
    return str(BIN / name) if (BIN / name).exists() else name


def say(text: str = "") -> None:
    """A line on standard output, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
