"""What rank 0 says of its program, once, for the config of the job's run. No secret gets there knowingly."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
from typing import TYPE_CHECKING, Any, Final

import torch

from mlenv import page, rows
from mlenv.launch.logs import mask

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mlenv.job import Job

CONFIG: Final = "config.json"
"""In the run's folder, of a program with ``@ml.entry``: its parameters."""
COMMIT: Final = ("MLENV_GIT_COMMIT", "GIT_COMMIT", "GITHUB_SHA", "CI_COMMIT_SHA")
"""Variables in which a job or its image may name the commit that its program is of."""
MAX_ARGS: Final = 200
MAX_CONFIG: Final = 32 << 10


def write(folder: Path, job: Job) -> None:
    """Replace the page. Raises OSError when the disk does not take it."""
    folder.mkdir(parents=True, exist_ok=True)
    page.replace(folder, rows.ABOUT, json.dumps(page.finite(of(job, os.environ, sys.orig_argv))))


def _argument(one: str, before: str) -> str:
    """Without what looks like a secret: behind ``--password`` anything does, as behind ``--password=``."""
    return "***" if before.startswith("-") and _secret(before, one) else mask(one)[:1000]


def _shown(name: str, value: Any) -> Any:
    """A parameter, without the texts whose names are those of secrets."""
    if isinstance(value, dict):
        return {key: _shown(str(key), one) for key, one in value.items()}
    if isinstance(value, list):
        return [_shown(name, one) for one in value]
    return "***" if isinstance(value, str) and _secret(name, value) else value


def _secret(name: str, text: str) -> bool:
    """Whether a text of this name is hidden; numbers are not: ``--max-tokens 100``."""
    number = text.replace(".", "").replace("-", "").isdigit()
    return not number and mask(f"{name}=x") == f"{name}=***"


def of(job: Job, env: Mapping[str, str], argv: list[str]) -> dict[str, Any]:
    """The program with its arguments, its parameters, the world, and what it runs on."""
    parameters: Any = {}
    with contextlib.suppress(OSError, ValueError):
        parameters = json.loads(page.content(job.run_dir / CONFIG, MAX_CONFIG))
    return {
        "argv": [_argument(*one) for one in zip(argv, ["", *argv], strict=False)][:MAX_ARGS],
        "commit": next((env[name][:64] for name in COMMIT if env.get(name)), ""),
        "world_size": job.world_size,
        "nodes": job.num_nodes,
        "device": job.device.type,
        "seed": job.seed,
        "deterministic": _deterministic(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "parameters": _shown("", parameters) if isinstance(parameters, dict) else {},
    }


def _deterministic() -> bool:
    """Whether torch raises where it has no deterministic kernel; a warning alone promises nothing."""
    asked, warned = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    return asked and not warned
