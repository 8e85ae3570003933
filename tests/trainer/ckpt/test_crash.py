"""SIGKILL at every named point: what was sealed before still loads, bit for bit, and litter is cleared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
LEADERS_ONLY = {"rename", "retain"}
QUICK = {("write", 1), ("rename", 0), ("sealed", 0)}
CASES = [(point, victim) for point in SAVING for victim in (0, 1) if not (victim and point in LEADERS_ONLY)]


def test_every_point_is_tried() -> None:
    assert {*SAVING, "verify", "load"} == set(failpoints.POINTS)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    at = tmp_path_factory.mktemp("undisturbed")
    return worlds.run(programs.train, at / "w", 2, "ddp", str(at / "ck"), 17)


@pytest.mark.parametrize(
    ("point", "victim"),
    [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES],
)
def test_killed_while_saving(tmp_path: Path, point: str, victim: int, undisturbed: list[Any]) -> None:
    """The first run seals steps 5 and 10 and the second is killed around step 15; the third ends at 17."""
    folder = tmp_path / "ck"
    worlds.run(programs.train, tmp_path / "w", 2, "ddp", str(folder), 11)
    killed = {failpoints.VARIABLE: f"{point}=kill@{victim}"}
    started = worlds.start(programs.train, tmp_path / "w", 2, "ddp", str(folder), 16, env=killed)
    assert worlds.finish(started, tmp_path / "w")[victim].code == -9
    expected = 15 if point in SEALED_BY_THEN else 10
    assert sealed(folder)[-1].startswith(names.folder(expected, 2)[:17])
    again = worlds.run(programs.train, tmp_path / "w", 2, "ddp", str(folder), 17)
    assert [one["start"] for one in again] == [expected] * 2
    for ref, resumed in zip(undisturbed, again, strict=True):
        assert unequal(ref["state"], resumed["state"]) == []
    assert expected == 15 or litter(folder) == []


@pytest.mark.parametrize("point", [pytest.param("verify", marks=pytest.mark.slow), "load"])
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
