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


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    from rig import Rig

    rig = Rig(tmp_path)
    yield rig
    rig.close()


@pytest.fixture
def server(rig: Rig) -> Server:
    return rig.server()
