"""What is done to a folder of checkpoints behind our back: seen, said, and stepped over."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from mlenv.ckpt import names, retain, seal
from mlenv.ckpt.checkpointer import Checkpointer
from mlenv.ckpt.errors import ListingFailed, NothingToResume

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlenv.ckpt.restore import Start


class Run:
    """A small training run in this process."""

    def __init__(self, folder: Path, *, rows: int = 100, **more: Any) -> None:
        torch.manual_seed(0)
        self.said: list[str] = []
        self.net = nn.Sequential(nn.Embedding(rows, 8), nn.Linear(8, 1))
        self.opt = torch.optim.Adam(self.net.parameters())
        things = {"net": self.net, "opt": self.opt, **more.pop("things", {})}
        keep = retain.Policy(newest=9)
        self.ck = Checkpointer(folder, every=1, keep=keep, say=self.said.append, **more, **things)

    def step(self, number: int) -> None:
        self.net(torch.arange(number, number + 10)).sum().backward()
        self.opt.step()
        self.opt.zero_grad()
        self.ck.commit(number)

    def weights(self) -> list[bytes]:
        found = [one.detach().numpy().tobytes() for one in self.net.parameters()]
        return found + [entry["exp_avg"].numpy().tobytes() for entry in self.opt.state.values()]


@pytest.fixture
def past(tmp_path: Path) -> tuple[Path, dict[int, list[bytes]]]:
    """A folder with checkpoints of steps 1, 2 and 3, and what the weights were at each."""
    run = Run(tmp_path / "ck")
    known = {}
    run.ck.restore()
    for step in (1, 2, 3):
        run.step(step)
        known[step] = run.weights()
    run.ck.close()
    assert run.ck.stats.saved == 3
    return tmp_path / "ck", known


def newest(folder: Path) -> Path:
    return max(path for path in folder.iterdir() if names.parse_folder(path.name))


def shard(folder: Path) -> Path:
    return newest(folder) / "replica-0" / "__0_0.distcp"


def restored(folder: Path, **more: Any) -> tuple[Run, Start]:
    run = Run(folder, **more)
    start = run.ck.restore()
    run.ck.close()
    return run, start


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def truncate(folder: Path) -> None:
    os.truncate(shard(folder), 100)


def flip_a_bit(folder: Path) -> None:
    flip(shard(folder), shard(folder).stat().st_size // 2)


def empty_a_file(folder: Path) -> None:
    shard(folder).write_bytes(b"")


def drop_metadata(folder: Path) -> None:
    (newest(folder) / "replica-0" / ".metadata").unlink()


def drop_state(folder: Path) -> None:
    (newest(folder) / names.STATE).unlink()


def drop_the_seal(folder: Path) -> None:
    (newest(folder) / names.SEAL).unlink()


def cut_the_seal(folder: Path) -> None:
    os.truncate(newest(folder) / names.SEAL, 500)


def edit_the_seal(folder: Path) -> None:
    path = newest(folder) / names.SEAL
    path.write_bytes(
        path.read_bytes().replace(b'"samples":', b'"epoch":7,"samples":', 1).replace(b'"step":3', b'"step":9')
    )


def shard_of_an_older_one(folder: Path) -> None:
    older = min(folder.iterdir())
    shutil.copy(older / "replica-0" / "__0_0.distcp", shard(folder))


def link_in_place_of_a_file(folder: Path) -> None:
    path = shard(folder)
    path.rename(folder / "elsewhere")
    path.symlink_to(folder / "elsewhere")


def rename_by_hand(folder: Path) -> None:
    newest(folder).rename(folder / names.folder(7, 1))


DAMAGES: list[tuple[Callable[[Path], None], str]] = [
    (truncate, "has 100 bytes instead of"),
    (flip_a_bit, "is not what was sealed (its sha256 differs)"),
    (empty_a_file, "has 0 bytes instead of"),
    (drop_metadata, "replica-0/.metadata is missing"),
    (drop_state, "state.json is missing"),
    (drop_the_seal, "SEAL.json is missing: somebody removed it"),
    (cut_the_seal, "cut off or damaged"),
    (edit_the_seal, "its digest does not fit its content"),
    (shard_of_an_older_one, "is not what was sealed"),
    (link_in_place_of_a_file, "is reached through a link"),
    (rename_by_hand, "the folder was renamed by hand"),
]


@pytest.mark.parametrize(("damage", "why"), DAMAGES, ids=[one.__name__ for one, _ in DAMAGES])
def test_a_damaged_checkpoint_is_passed_over(
    past: tuple[Path, dict[int, list[bytes]]], damage: Callable[[Path], None], why: str
) -> None:
    folder, known = past
    damage(folder)
    run, start = restored(folder)
    assert start.step == 2
    assert run.weights() == known[2]
    assert len(start.passed) == 1
    assert why.replace("its digest", "digest") in start.passed[0].why


def test_undamaged_the_newest_is_taken(past: tuple[Path, dict[int, list[bytes]]]) -> None:
    run, start = restored(past[0])
    assert (start.step, start.passed) == (3, ())
    assert run.weights() == past[1][3]


def test_nothing_is_started_afresh_when_all_are_damaged(past: tuple[Path, dict[int, list[bytes]]]) -> None:
    folder, _ = past
    for one in folder.iterdir():
        (one / "replica-0" / "__0_0.distcp").unlink()
    with pytest.raises(NothingToResume, match=r"none of the 3 checkpoint\(s\).*__0_0.distcp is missing"):
        restored(folder)


def test_an_empty_folder_is_a_fresh_start_unless_a_past_is_known(tmp_path: Path) -> None:
    run, start = restored(tmp_path / "new")
    assert (start.step, start.digest) == (0, None)
    assert "a fresh start" in run.said[0]
    with pytest.raises(NothingToResume, match="there was a checkpoint of this job"):
        Run(tmp_path / "new").ck.restore(past=True)


def test_a_volume_that_is_not_mounted_is_no_fresh_start(tmp_path: Path) -> None:
    with pytest.raises(ListingFailed, match="there can be no checkpoints in"):
        Run(tmp_path / "volume" / "ck")
    run = Run(tmp_path / "ck")
    (tmp_path / "ck").rmdir()
    with pytest.raises(ListingFailed, match="cannot be listed"):
        run.ck.restore()


def test_another_model_is_told_by_its_tensors(past: tuple[Path, dict[int, list[bytes]]]) -> None:
    with pytest.raises(
        NothingToResume,
        match=r"net.0.weight: shape \(100, 8\) in the checkpoint, \(120, 8\) in the model",
    ):
        restored(past[0], rows=120)


def test_another_set_of_things_is_told_by_name(past: tuple[Path, dict[int, list[bytes]]]) -> None:
    extra = nn.Linear(1, 1)
    with pytest.raises(NothingToResume, match="head: given now, not in the checkpoint"):
        restored(past[0], things={"head": extra})


def test_a_ceiling_and_a_record_bound_what_is_taken(past: tuple[Path, dict[int, list[bytes]]]) -> None:
    folder, _ = past
    run = Run(folder)
    start = run.ck.restore(ceiling=2)
    assert (start.step, "rolled back" in start.passed[0].why) == (2, True)
    first = seal.parse((folder / names.folder(1, 1) / names.SEAL).read_bytes())
    assert Run(folder).ck.restore(only=seal.digest(first)).step == 1
    with pytest.raises(NothingToResume, match="the job's record names another one"):
        Run(folder).ck.restore(only="0" * 64)


class Trap:
    """A pickle that leaves a mark when it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_foreign_pickles_are_not_opened(past: tuple[Path, dict[int, list[bytes]]], tmp_path: Path) -> None:
    folder, known = past
    mark = tmp_path / "opened"
    evil = pickle.dumps(Trap(mark))
    for where in (folder, newest(folder), newest(folder) / "replica-0"):
        (where / "extra.pt").write_bytes(evil)
    (folder / "step-000000000009.a1").mkdir()
    (folder / "step-000000000009.a1" / ".metadata").write_bytes(evil)
    run, start = restored(folder)
    assert (start.step, run.weights() == known[3]) == (3, True)
    (folder / names.folder(3, 1) / "replica-0" / ".metadata").write_bytes(evil)
    assert restored(folder)[1].step == 2
    assert not mark.exists()


def test_even_a_sealed_pickle_may_only_hold_metadata(
    past: tuple[Path, dict[int, list[bytes]]], tmp_path: Path
) -> None:
    """Whoever can write the folder can write a seal too: the pickle still runs nothing."""
    folder, _ = past
    mark = tmp_path / "opened"
    at = folder / names.folder(3, 1)
    path = at / "replica-0" / ".metadata"
    path.write_bytes(pickle.dumps(Trap(mark)))
    reseal(at, "replica-0/.metadata")
    start = restored(folder)[1]
    assert start.step == 2
    assert "which no checkpoint needs: not opened" in start.passed[0].why
    assert not mark.exists()


def reseal(folder: Path, uri: str) -> None:
    """Seal what is there now, as somebody would who knows how."""
    from mlenv.ckpt import durable

    whole = seal.parse((folder / names.SEAL).read_bytes())
    size, found = durable.hash_file(folder / uri)
    parts = tuple(
        one.model_copy(update={"size": size, "hash": found}) if one.uri == uri else one for one in whole.parts
    )
    (folder / names.SEAL).write_bytes(seal.encode(whole.model_copy(update={"parts": parts})))


def test_what_arrives_is_checked_against_the_seal(past: tuple[Path, dict[int, list[bytes]]]) -> None:
    """Files are whole, and the model still gets other bits: a hook that rounds, say."""
    run = Run(past[0])

    def spoil(module: nn.Module, keys: Any) -> None:
        del keys
        with torch.no_grad():
            next(module.parameters())[3, 3] += 1

    run.net.register_load_state_dict_post_hook(spoil)
    with pytest.raises(NothingToResume, match=r"net\.0\.weight is not what was sealed after it was loaded"):
        run.ck.restore()


def test_a_checkpoint_of_another_job_is_not_taken(
    past: tuple[Path, dict[int, list[bytes]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = past
    monkeypatch.setenv("MLENV_JOB_UID", "uid-a")
    run = Run(folder)
    run.ck.restore()
    run.step(4)
    run.ck.close()
    monkeypatch.setenv("MLENV_JOB_UID", "uid-b")
    start = restored(folder)[1]
    assert start.step == 3
    assert "it belongs to another job (uid-a)" in start.passed[0].why


def test_a_program_that_never_restored_does_not_write_over_the_past(
    past: tuple[Path, dict[int, list[bytes]]],
) -> None:
    run = Run(past[0])
    run.step(3)
    run.ck.close()
    assert run.ck.stats.saved == 1
    assert (past[0] / names.folder(3, 2) / names.SEAL).exists()


def test_the_seal_is_plain_json(past: tuple[Path, dict[int, list[bytes]]]) -> None:
    shown = json.loads((newest(past[0]) / names.SEAL).read_text())["seal"]
    assert shown["step"] == 3
    assert {part["uri"] for part in shown["parts"]} == {
        "replica-0/.metadata",
        "replica-0/__0_0.distcp",
        "state.json",
    }
