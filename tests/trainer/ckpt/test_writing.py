"""Saves that are slow, fail or are cut off: training goes on, and older checkpoints stay."""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING, Any

import programs
import pytest
import torch
import worlds
from rig import until
from test_faults import Run, restored

from mlenv.ckpt import failpoints, names, retain, seal

if TYPE_CHECKING:
    from pathlib import Path


def sealed(folder: Path) -> list[str]:
    return sorted(
        path.name
        for path in folder.iterdir()
        if names.parse_folder(path.name) and (path / names.SEAL).exists()
    )


def litter(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(names.TMP)]


def test_what_is_written_is_the_snapshot_and_not_what_came_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's async_save once wrote CPU tensors as they had become meanwhile."""
    folder = tmp_path / "ck"
    run = Run(folder)
    run.ck.restore()
    run.step(1)
    run.ck.wait()
    gate = tmp_path / "gate"
    monkeypatch.setenv(failpoints.VARIABLE, f"compare=wait:{gate}")
    run.step(2)
    known = run.weights()
    with torch.no_grad():
        for weight in run.net.parameters():
            weight.fill_(7.0)
        for entry in run.opt.state.values():
            entry["exp_avg"].fill_(7.0)
    gate.touch()
    run.ck.close()
    again, start = restored(folder)
    assert start.step == 2
    assert again.weights() == known


@pytest.mark.parametrize(
    ("action", "point", "why"),
    [
        ("full", "write", "the disk is full"),
        ("raise", "write", "made to fail at write"),
        ("raise", "seal", "made to fail at seal"),
        ("raise", "rename", "made to fail at rename"),
    ],
)
def test_a_save_that_fails_leaves_nothing_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str, point: str, why: str
) -> None:
    folder = tmp_path / "ck"
    run = Run(folder)
    run.ck.restore()
    run.step(1)
    run.ck.wait()
    monkeypatch.setenv(failpoints.VARIABLE, f"{point}={action}")
    run.step(2)
    assert not run.ck.wait()
    assert (sealed(folder), litter(folder)) == ([names.folder(1, 1)], [])
    assert why in run.said[-1]
    assert "Training goes on" in run.said[-1]
    monkeypatch.delenv(failpoints.VARIABLE)
    run.step(3)
    assert run.ck.wait()
    assert (run.ck.stats.saved, run.ck.stats.failed) == (2, 1)
    assert sealed(folder) == [names.folder(1, 1), names.folder(3, 1)]
    run.ck.close()


def test_a_full_disk_is_told_and_older_checkpoints_stay(tmp_path: Path) -> None:
    """A real limit on the size of files, in a process of its own."""
    said, kept, step = worlds.run(short_of_room, tmp_path / "w", 1, str(tmp_path / "ck"))[0]
    assert "larger than this system allows" in said[-1]
    assert kept == [names.folder(1, 1)]
    assert step == 1


def short_of_room(rank: int, folder: str) -> Any:
    import signal
    from pathlib import Path

    del rank
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    run = Run(Path(folder))
    run.ck.restore()
    run.step(1)
    run.ck.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
    run.step(2)
    run.ck.wait()
    kept = [*sealed(Path(folder)), *litter(Path(folder))]
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return run.said, kept, restored(Path(folder))[1].step


@pytest.mark.skipif(os.getuid() != 0, reason="only root mounts file systems")
def test_a_small_file_system_that_is_full(tmp_path: Path) -> None:
    said, kept, step = worlds.run(small_disk, tmp_path / "w", 1, str(tmp_path / "disk"))[0]
    assert "the disk is full: free some" in said[-1]
    assert (kept, step) == ([names.folder(1, 1)], 1)


def small_disk(rank: int, folder: str) -> Any:
    """In a mount namespace of its own, so that nothing is left mounted."""
    import ctypes
    import subprocess
    from pathlib import Path

    del rank
    if ctypes.CDLL(None, use_errno=True).unshare(0x00020000):
        raise OSError(ctypes.get_errno(), "unshare")
    Path(folder).mkdir()
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=True)
    run = Run(Path(folder))
    run.ck.restore()
    for step in (1, 2):
        run.step(step)
        run.ck.wait()
        (Path(folder) / "ballast").write_bytes(b"x" * (free_bytes(folder) - 4096 if step == 1 else 0))
    kept = [*sealed(Path(folder)), *litter(Path(folder))]
    return run.said, kept, restored(Path(folder))[1].step


def free_bytes(folder: str) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_bsize


@pytest.mark.skipif(os.getuid() != 0, reason="only root mounts file systems, and permissions do not stop it")
def test_a_read_only_disk(tmp_path: Path) -> None:
    said, kept, step = worlds.run(read_only, tmp_path / "w", 1, str(tmp_path / "disk"))[0]
    assert "the disk is read-only: mount it writable" in said[-1]
    assert (kept, step) == ([names.folder(1, 1)], 1)


def read_only(rank: int, folder: str) -> Any:
    import ctypes
    import subprocess
    from pathlib import Path

    del rank
    if ctypes.CDLL(None, use_errno=True).unshare(0x00020000):
        raise OSError(ctypes.get_errno(), "unshare")
    Path(folder).mkdir()
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
    run = Run(Path(folder))
    run.ck.restore()
    run.step(1)
    run.ck.wait()
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    run.step(2)
    run.ck.wait()
    return run.said, [*sealed(Path(folder)), *litter(Path(folder))], restored(Path(folder))[1].step


def test_one_rank_that_fails_stops_the_save_on_all(tmp_path: Path) -> None:
    folder = tmp_path / "ck"
    fails = {failpoints.VARIABLE: "write=full@1"}
    ran = worlds.run(programs.train, tmp_path / "w", 2, "ddp", str(folder), 10, env=fails)
    assert [one["stats"].failed for one in ran] == [2, 2]
    assert "writing: rank 1: the disk is full" in ran[0]["said"][-1]
    assert list(folder.iterdir()) == []


def test_memory_does_not_grow_with_the_number_of_saves(tmp_path: Path) -> None:
    early, late, stage = worlds.run(many_saves, tmp_path / "w", 1, str(tmp_path / "ck"))[0]
    assert stage >= 3 * 8_000_000
    assert late - early < stage, "a save leaves something behind"


def many_saves(rank: int, folder: str) -> Any:
    """The most memory of the first saves, the least of the last, and the size of the snapshot.

    The allocator keeps some freed tensors for a while, so memory goes up and down by a few of
    them. What every save leaves behind can only go up, and shows in the least, too.
    """
    from pathlib import Path

    del rank
    run = Run(Path(folder), rows=250_000)
    seen = []
    for step in range(1, 31):
        run.step(step)
        run.ck.wait()
        seen.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize())
    return max(seen[:8]), min(seen[-8:]), run.ck._stage.size


def test_saves_that_are_due_wait_for_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one snapshot at a time, so memory is bounded; the time is counted."""
    from threading import Timer

    run = Run(tmp_path / "ck")
    gate = tmp_path / "gate"
    monkeypatch.setenv(failpoints.VARIABLE, f"seal=wait:{gate}")
    run.step(1)
    until(lambda: litter(tmp_path / "ck"), "the save to begin")
    Timer(0.2, gate.touch).start()
    run.step(2)
    assert gate.exists()
    assert run.ck.stats.waited > 0
    run.ck.close()
    assert run.ck.stats.saved == 2


def test_only_so_many_are_kept(tmp_path: Path) -> None:
    run = Run(tmp_path / "ck")
    run.ck.house.policy = retain.Policy(newest=2)
    for step in range(1, 6):
        run.step(step)
    run.ck.close()
    assert sealed(tmp_path / "ck") == [names.folder(4, 1), names.folder(5, 1)]


def test_the_one_we_run_from_is_kept(tmp_path: Path) -> None:
    run = Run(tmp_path / "ck")
    for step in (1, 2):
        run.step(step)
    run.ck.close()
    again = Run(tmp_path / "ck")
    again.ck.house.policy = retain.Policy(newest=1)
    assert again.ck.restore(ceiling=1).step == 1
    for step in (2, 3, 4):
        again.step(step)
    again.ck.close()
    assert sealed(tmp_path / "ck") == [names.folder(1, 1), names.folder(4, 2)]


def test_a_retention_that_fails_is_told_and_nobody_waits_for_it(tmp_path: Path) -> None:
    folder = tmp_path / "ck"
    worlds.run(programs.train, tmp_path / "w", 2, "ddp", str(folder), 5)
    path = folder / names.folder(5, 1) / names.SEAL
    path.write_bytes(seal.encode(seal.parse(path.read_bytes()).model_copy(update={"time": "soon"})))
    ran = worlds.run(programs.train, tmp_path / "w", 2, "ddp", str(folder), 15)
    assert ran[0]["stats"].saved == 2
    assert "old checkpoints were not deleted: choosing what to delete: rank 0" in ran[0]["said"][-1]
