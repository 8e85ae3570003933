"""SIGKILL at every named point: what was sealed before still loads, bit for bit, and litter is cleared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import programs
import pytest
import worlds
from test_resume import unequal
from test_writing import litter, sealed

from mlenv.ckpt import failpoints, names

if TYPE_CHECKING:
    from pathlib import Path

SAVING = ("snapshot", "compare", "write", "seal", "rename", "sealed", "retain")
SEALED_BY_THEN = {"sealed", "retain"}


def test_every_point_is_tried() -> None:
    assert {*SAVING, "verify", "load"} == set(failpoints.POINTS)


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("point", SAVING)
def test_killed_while_saving(tmp_path: Path, point: str, victim: int) -> None:
    """The first run seals steps 5 and 10 and the second is killed around step 15; the third ends at 17."""
    folder = tmp_path / "ck"
    if point in {"rename", "sealed", "retain"}:
        victim = 0  # only a leader comes by there, or what it does is all that counts
    ref = worlds.run(programs.train, tmp_path / "w", 2, "ddp", str(tmp_path / "ref"), 17)
    worlds.run(programs.train, tmp_path / "w", 2, "ddp", str(folder), 11)
    killed = {failpoints.VARIABLE: f"{point}=kill@{victim}"}
    started = worlds.start(programs.train, tmp_path / "w", 2, "ddp", str(folder), 16, env=killed)
    assert worlds.finish(started, tmp_path / "w")[victim].code == -9
    expected = 15 if point in SEALED_BY_THEN else 10
    assert sealed(folder)[-1].startswith(names.folder(expected, 2)[:17])
    again = worlds.run(programs.train, tmp_path / "w", 2, "ddp", str(folder), 17)
    assert [one["start"] for one in again] == [expected] * 2
    for undisturbed, resumed in zip(ref, again, strict=True):
        assert unequal(undisturbed["state"], resumed["state"]) == []
    assert expected == 15 or litter(folder) == []


@pytest.mark.parametrize("point", ["verify", "load"])
def test_killed_while_restoring(tmp_path: Path, point: str) -> None:
    folder = str(tmp_path / "ck")
    saved = worlds.run(programs.train, tmp_path / "w", 2, "ddp", folder, 5)
    killed = {failpoints.VARIABLE: f"{point}=kill@1"}
    started = worlds.start(programs.train, tmp_path / "w", 2, "ddp", folder, 9, env=killed)
    assert worlds.finish(started, tmp_path / "w")[1].code == -9
    again = worlds.run(programs.train, tmp_path / "w", 2, "ddp", folder, 5)
    for before, resumed in zip(saved, again, strict=True):
        assert resumed["start"] == 5
        assert unequal(before["state"], resumed["state"]) == []
