"""Room: budgets, disks with room for few, folders of two jobs, and what stays."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

import programs
import pytest
import torch
import worlds
from rig import until
from test_faults import Run
from test_writing import litter, sealed

from mlenv.ckpt import failpoints, names, retain, room, seal
from mlenv.ckpt.checkpointer import Checkpointer

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.skipif(os.getuid() != 0, reason="only root mounts file systems")
def test_a_disk_with_room_for_few_keeps_as_many_as_fit(tmp_path: Path) -> None:
    """The policy would keep nine, of which the disk takes four: nothing fails, and the oldest go first."""
    stats, kept = worlds.run(few_fit, tmp_path / "w", 1, str(tmp_path / "disk"))[0]
    assert (stats.saved, stats.failed) == (12, 0), stats.errors
    assert 2 <= len(kept) < 9
    assert kept[-1] == names.folder(12, 1)


def few_fit(rank: int, folder: str) -> Any:
    from pathlib import Path

    del rank
    mount(folder, "size=1200k")
    run = Run(Path(folder), rows=2500)  # 240 KB, and as much again for each step
    for step in range(1, 13):
        run.step(step)
        run.ck.wait()
    return run.ck.stats, [*sealed(Path(folder)), *litter(Path(folder))]


def mount(folder: str, options: str) -> None:
    """A file system of its own in a mount namespace of its own, so that nothing is left mounted."""
    import ctypes
    import subprocess
    from pathlib import Path

    if ctypes.CDLL(None, use_errno=True).unshare(0x00020000):
        raise OSError(ctypes.get_errno(), "unshare")
    Path(folder).mkdir()
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)


@pytest.mark.skipif(os.getuid() != 0, reason="only root mounts file systems, and permissions do not stop it")
def test_a_disk_that_is_read_only_for_a_while(tmp_path: Path) -> None:
    stats, kept = worlds.run(read_only_for_a_while, tmp_path / "w", 1, str(tmp_path / "disk"))[0]
    assert (stats.saved, stats.failed, stats.failed_in_a_row) == (2, 1, 0)
    assert kept == [names.folder(1, 1), names.folder(3, 1)]


def read_only_for_a_while(rank: int, folder: str) -> Any:
    import subprocess
    from pathlib import Path

    del rank
    mount(folder, "size=10m")
    run = Run(Path(folder))
    for step, mode in ((1, "ro"), (2, "rw"), (3, "rw")):
        run.step(step)
        run.ck.wait()
        subprocess.run(["mount", "-o", f"remount,{mode}", folder], check=True)
    return run.ck.stats, [*sealed(Path(folder)), *litter(Path(folder))]


def bytes_in(folder: Path) -> int:
    return sum(one.stat().st_size for one in folder.rglob("*.distcp"))


def test_a_budget_holds_also_while_the_next_one_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "ck"
    run = Run(folder, rows=2000)
    run.ck.restore()
    run.step(1)
    run.ck.wait()
    assert run.ck.sealed is not None
    budget = 4 * run.ck.sealed.size
    run.ck.house.policy = retain.Policy(newest=9, budget=budget)
    for step in range(2, 9):
        gate = tmp_path / f"gate-{step}"
        monkeypatch.setenv(failpoints.VARIABLE, f"rename=wait:{gate}")
        run.step(step)
        until(lambda: [*folder.glob("*.tmp/SEAL.json")], "all to be written but the name")
        assert bytes_in(folder) <= budget
        gate.touch()
        run.ck.wait()
    assert len(sealed(folder)) in {3, 4}
    assert not [one for one in run.said if "exceed their budget" in one]
    run.ck.close()


def test_a_budget_too_small_for_two_is_told_once_and_one_stays(tmp_path: Path) -> None:
    folder = tmp_path / "ck"
    run = Run(folder)
    run.ck.house.policy = retain.Policy(newest=9, budget=100)
    for step in range(1, 5):
        run.step(step)
        run.ck.wait()
    run.ck.close()
    assert sealed(folder) == [names.folder(4, 1)]
    told = [one for one in run.said if "exceed their budget of 100 bytes" in one]
    assert 1 <= len(told) <= 3  # at first only the size of the tensors is known, then that of one
    assert "Give retain.Policy a budget of at least" in told[-1]


def test_another_job_s_checkpoints_are_not_deleted_and_its_folder_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "ck"
    monkeypatch.setenv("MLENV_JOB_UID", "uid-a")
    first = Run(folder)
    first.step(1)
    first.ck.close()
    monkeypatch.setenv("MLENV_JOB_UID", "uid-b")
    other = Run(folder)
    other.ck.house.policy = retain.Policy(newest=1)
    other.step(2)
    other.ck.close()
    assert other.ck.stats.failed == 1
    assert "belongs to job uid-a, and this is job uid-b" in other.said[-1]
    assert sealed(folder) == [names.folder(1, 1)]
    (folder / names.OWNER).unlink()
    again = Run(folder)
    again.ck.house.policy = retain.Policy(newest=1)
    for step in (3, 4):
        again.step(step)
    again.ck.close()
    assert sealed(folder) == [names.folder(1, 1), names.folder(4, 2)]


@pytest.mark.parametrize(("metric", "best"), [("auc", 2), ("-auc", 1), (None, None), ("ndcg", None)])
def test_the_best_by_a_metric_stays(tmp_path: Path, metric: str | None, best: int | None) -> None:
    run = Run(tmp_path / "ck")
    run.ck.house.policy = retain.Policy(newest=1, metric=metric)
    for step, auc in enumerate((0.5, 0.9, float("nan"), 0.7), 1):
        run.ck.save(step, metrics={"auc": auc})
    run.ck.close()
    assert sealed(tmp_path / "ck") == [names.folder(step, 1) for step in (best, 4) if step]


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_the_size_of_the_next_one_is_known_before(tmp_path: Path, how: str) -> None:
    """With averaged weights, of which all ranks have a copy, and with shards."""
    for coming, size in worlds.run(foretold, tmp_path / "w", 2, how, str(tmp_path / "ck")):
        assert coming == pytest.approx(size, rel=0.01)  # norms differ by rank: so little is not in the seal


def foretold(rank: int, how: str, folder: str) -> Any:
    del rank
    things = programs.Things(how)
    things.step(0)
    found: list[int] = []
    with Checkpointer(folder, say=lambda _: None, **things.all()) as ck:
        ask = ck.house.make_room

        def listen(copies: Any, alike: Any) -> None:
            place, every = ck._groups.place, ck._groups.every
            shares = every.gather(room.share(place, copies, alike))
            found.append(room.need(place, shares).size)
            ask(copies, alike)

        ck.house.make_room = listen  # type: ignore[method-assign]
        ck.save(1)
        assert ck.wait(), ck.stats.errors
        assert ck.sealed is not None
        return found[0], sum(bytes_of(one) for one in ck.sealed.tensors)


def bytes_of(tensor: seal.Tensor) -> int:
    kind: torch.dtype = getattr(torch, tensor.dtype)
    return math.prod(tensor.shape) * kind.itemsize
