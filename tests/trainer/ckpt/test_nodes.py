"""Two folders as two nodes' disks, either of them lost: what plain DCP brings back, and what ours does."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import programs
import pytest
import torch
import worlds
from test_faults import flip
from test_resume import unequal
from test_writing import litter

from mlenv.ckpt import failpoints, names

NODES: dict[str, Any] = {"per_node": True}


def plain_dcp(rank: int, how: str, folder: str) -> None:
    """Save with DCP as it comes, each node into a folder of its own."""
    import os

    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_model_state_dict

    del rank
    things = programs.Things(how)
    things.step(0)
    where = f"{folder}/node-{os.environ['GROUP_RANK']}"
    dcp.save(get_model_state_dict(things.net), storage_writer=dcp.FileSystemWriter(where))


def readable(rank: int, folder: str) -> list[str]:
    """Which tensors one process can read from what is left of both folders, put into one."""
    import torch.distributed.checkpoint as dcp

    del rank
    found = []
    net = programs.Net()
    for name, tensor in net.state_dict().items():
        try:
            dcp.load({name: tensor}, storage_reader=dcp.FileSystemReader(folder), no_dist=True)
        except dcp.api.CheckpointException:
            continue
        found.append(name)
    return found


@pytest.mark.parametrize(
    ("how", "lost"),
    [
        ("ddp", 0),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in (("ddp", 1), ("fsdp", 0), ("fsdp", 1))),
    ],
)
def test_plain_dcp_loses_a_node_and_with_it_the_checkpoint(tmp_path: Path, how: str, lost: int) -> None:
    """It writes each tensor of what all ranks have alike once, somewhere: half of them on each node."""
    worlds.run(plain_dcp, tmp_path / "w", 2, how, str(tmp_path / "ck"), nodes=2)
    left = tmp_path / "left"
    shutil.copytree(tmp_path / "ck" / f"node-{1 - lost}", left)
    if lost == 0:  # the first rank alone writes where things are; suppose that somebody kept that
        shutil.copy(tmp_path / "ck" / "node-0" / ".metadata", left)
    found = worlds.run(readable, tmp_path / "w", 1, str(left))[0]
    assert 0 < len(found) < len(programs.Net().state_dict())


@pytest.mark.slow
def test_each_node_alone_has_all_that_ranks_have_alike(tmp_path: Path) -> None:
    folder = tmp_path / "ck"
    worlds.run(programs.train, tmp_path / "w", 4, "ddp", str(folder), 5, NODES, nodes=2)
    for node in (0, 1):
        at = folder / f"node-{node}" / names.folder(5, 1)
        listed = {path.relative_to(at).as_posix() for path in at.rglob("*") if path.is_file()}
        copy = {f"replica-{node}/{one}" for one in (".metadata", "__0_0.distcp", "__1_0.distcp")}
        assert listed == {names.SEAL, names.PART, names.STATE, *copy}
    seals = [(folder / f"node-{n}" / names.folder(5, 1) / names.SEAL).read_bytes() for n in (0, 1)]
    assert seals[0] == seals[1]


@pytest.mark.parametrize("lost", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_lost_node_costs_nothing_under_ddp(tmp_path: Path, lost: int) -> None:
    """Its replacement starts with an empty folder, and gets from the other node what it needs."""
    folder = tmp_path / "ck"
    ref = worlds.run(programs.train, tmp_path / "w", 4, "ddp", str(tmp_path / "ref"), 8)
    worlds.run(programs.train, tmp_path / "w", 4, "ddp", str(folder), 6, NODES, nodes=2)
    shutil.rmtree(folder / f"node-{lost}")
    again = worlds.run(programs.train, tmp_path / "w", 4, "ddp", str(folder), 8, NODES, nodes=2)
    for undisturbed, resumed in zip(ref, again, strict=True):
        assert resumed["start"] == 5
        assert unequal(undisturbed["state"], resumed["state"]) == []
    assert (folder / f"node-{lost}" / names.folder(5, 1) / names.SEAL).exists()
    assert litter(folder / "node-0") == litter(folder / "node-1") == []


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_node_of_shards_is_told_and_older_ones_do_not_help(tmp_path: Path, lost: int) -> None:
    """Shards are written once: only a store or a copy on another node could bring them back."""
    folder = tmp_path / "ck"
    worlds.run(programs.train, tmp_path / "w", 2, "fsdp", str(folder), 10, NODES, nodes=2)
    shutil.rmtree(folder / f"node-{lost}")
    started = worlds.start(programs.train, tmp_path / "w", 2, "fsdp", str(folder), 10, NODES, nodes=2)
    ended = worlds.finish(started, tmp_path / "w")
    for one in ended:
        assert "NothingToResume: none of the 2 checkpoint(s)" in one.error
        assert f"shards/__{lost}_0.distcp is missing" in one.error


@pytest.mark.slow
def test_shards_stay_where_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "ck"
    ref = worlds.run(programs.train, tmp_path / "w", 2, "fsdp", str(tmp_path / "ref"), 7)
    worlds.run(programs.train, tmp_path / "w", 2, "fsdp", str(folder), 5, NODES, nodes=2)
    again = worlds.run(programs.train, tmp_path / "w", 2, "fsdp", str(folder), 7, NODES, nodes=2)
    for undisturbed, resumed in zip(ref, again, strict=True):
        assert resumed["start"] == 5
        assert unequal(undisturbed["state"], resumed["state"]) == []
    assert not (folder / "node-0" / names.folder(5, 1) / "shards" / "__1_0.distcp").exists()


@pytest.mark.slow
def test_shards_are_brought_to_another_world(tmp_path: Path) -> None:
    folder = tmp_path / "ck"
    saved = worlds.run(programs.train, tmp_path / "w", 2, "fsdp", str(folder), 5, NODES, nodes=2)
    again = worlds.run(programs.train, tmp_path / "w", 4, "fsdp", str(folder), 5, NODES, nodes=2)
    for one in again:
        assert one["start"] == 5
        different = unequal(saved[0]["state"], one["state"])
        assert set(different) <= {"rng", "python"}


@pytest.mark.slow
def test_a_damaged_file_is_brought_anew(tmp_path: Path) -> None:
    folder = tmp_path / "ck"
    saved = worlds.run(programs.train, tmp_path / "w", 2, "ddp", str(folder), 5, NODES, nodes=2)
    at = folder / "node-1" / names.folder(5, 1)
    flip(at / names.STATE, 50)
    flip(at / names.SEAL, 50)
    flip(at / "replica-1" / "__0_0.distcp", 500)
    again = worlds.run(programs.train, tmp_path / "w", 2, "ddp", str(folder), 5, NODES, nodes=2)
    for before, resumed in zip(saved, again, strict=True):
        assert resumed["start"] == 5
        assert unequal(before["state"], resumed["state"]) == []
    seals = {(folder / f"node-{n}" / names.folder(5, 1) / names.SEAL).read_bytes() for n in (0, 1)}
    assert len(seals) == 1


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_node_that_died_just_before_it_named_its_part(tmp_path: Path, victim: int) -> None:
    """One folder has its name, the other not yet: sealed is sealed. With neither named it never was."""
    folder = tmp_path / "ck"
    saved = worlds.run(programs.train, tmp_path / "w", 2, "ddp", str(folder), 5, NODES, nodes=2)
    at = folder / f"node-{victim}" / names.folder(5, 1)
    at.rename(at.with_name(at.name + names.TMP))
    again = worlds.run(programs.train, tmp_path / "w", 2, "ddp", str(folder), 5, NODES, nodes=2)
    for before, resumed in zip(saved, again, strict=True):
        assert resumed["start"] == 5
        assert unequal(before["state"], resumed["state"]) == []
    assert at.is_dir()
    for node in (0, 1):
        one = folder / f"node-{node}" / names.folder(5, 1)
        one.rename(one.with_name(one.name + names.TMP))
    assert (
        worlds.run(programs.train, tmp_path / "w", 2, "ddp", str(folder), 2, NODES, nodes=2)[0]["start"] == 0
    )


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("point", ["compare", "write", "seal", "rename", "sealed", "retain"])
def test_killed_while_saving_on_two_nodes(tmp_path: Path, point: str, victim: int) -> None:
    folder = tmp_path / "ck"
    ref = worlds.run(programs.train, tmp_path / "w", 2, "ddp", str(tmp_path / "ref"), 17)
    worlds.run(programs.train, tmp_path / "w", 2, "ddp", str(folder), 11, NODES, nodes=2)
    killed = {failpoints.VARIABLE: f"{point}=kill@{victim}"}
    started = worlds.start(
        programs.train, tmp_path / "w", 2, "ddp", str(folder), 16, NODES, env=killed, nodes=2
    )
    assert worlds.finish(started, tmp_path / "w")[victim].code == -9
    again = worlds.run(programs.train, tmp_path / "w", 2, "ddp", str(folder), 17, NODES, nodes=2)
    assert again[0]["start"] == (15 if point in {"sealed", "retain"} else 10)
    for undisturbed, resumed in zip(ref, again, strict=True):
        assert unequal(undisturbed["state"], resumed["state"]) == []


def test_replicas_that_drifted_apart_are_not_sealed(tmp_path: Path) -> None:
    """The copies of both nodes are summed anyway, so a weight that differs is seen at the next save."""
    ran = worlds.run(drifting, tmp_path / "w", 2, str(tmp_path / "ck"), nodes=2)
    assert ran[0] == ran[1]
    assert "net.a.weight differs between nodes 0 and 1, where it should be equal" in ran[0]


def drifting(rank: int, folder: str) -> str:
    from mlenv.ckpt.checkpointer import Checkpointer

    things = programs.Things("ddp", {"mend": True})
    Path(folder).mkdir(exist_ok=True)
    with Checkpointer(f"{folder}/{rank}", per_node=True, say=lambda _: None, net=things.net) as ck:
        if rank == 1:
            with torch.no_grad():
                next(p for n, p in things.net.named_parameters() if n.endswith("a.weight"))[0, 0] += 1
        ck.save(1)
        assert not ck.wait()
        return ck.stats.errors[-1]
