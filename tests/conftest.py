"""What more than one tier needs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Callable

settings.register_profile("any machine", settings.get_profile("default"), deadline=None)
if os.environ.get("CI") is None:  # there Hypothesis has a profile of its own, without deadlines too
    settings.load_profile("any machine")


@pytest.fixture(scope="session")
def tools() -> Path:
    """Folder of the cluster's programs (helm, etcd, ...), built on first use, which takes minutes.

    MLENV_BIN names another folder, for those who have the programs already.
    """
    if given := os.environ.get("MLENV_BIN"):
        return Path(given)
    from mlenv_local.binaries import ensure_binaries
    from mlenv_local.progress import Reporter

    return ensure_binaries(Reporter())


@pytest.fixture(scope="session")
def kubectl_path() -> Path:
    """The kubectl of the virtual environment."""
    return Path(sys.prefix) / "bin" / "kubectl"


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Say something to whoever runs the tests, captured or not."""
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")

    def line(text: str) -> None:
        reporter.ensure_newline()
        reporter.write_line(text)

    return line
