"""Launchers and operators for the tests of this folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rig import Rig, Server

    import mlenv as ml


def pytest_report_header() -> str:
    from seeds import MATRIX, STORE

    return f"crash matrix: MLENV_MATRIX_SEED={MATRIX}, of the store: MLENV_STORE_SEED={STORE}"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    from rig import Rig

    rig = Rig(tmp_path)
    yield rig
    rig.close()


@pytest.fixture
def server(rig: Rig) -> Server:
    return rig.server()


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that no launcher started."""
    from mlenv import job as jobs

    monkeypatch.setattr(jobs, "_current", None)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MLENV_ATTEMPT", "MLENV_JOB_UID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def job(tmp_path: Path) -> ml.Job:
    """One rank of one, as in a cluster."""
    import mlenv as ml

    return ml.Job(run_dir=tmp_path / "run", name="demo", uid="uid-1")
