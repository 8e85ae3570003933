"""The whole operator as a process beside an API server of the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def operator_process(
    kubeconfig: Path, namespace: str, log: Path, **settings: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run it in this namespace, on ports of its own; at the end it is killed."""
    variables = {
        "KUBECONFIG": str(kubeconfig),
        "POD_NAMESPACE": namespace,
        "POD_NAME": "of-a-test",
        "MLENV_OPERATOR_HTTP_HOST": "127.0.0.1",
        "MLENV_OPERATOR_HTTP_PORT": "0",
        "MLENV_OPERATOR_COST_PORT": "0",
        **settings,
    }
    argv = [sys.executable, "-m", "mlenv_operator", "run"]
    with log.open("wb") as out:
        process = subprocess.Popen(argv, env=os.environ | variables, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
