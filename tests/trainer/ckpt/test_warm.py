"""A start from another job's checkpoint (resume.policy: From) where that, or this job, has shards."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import programs
import pytest
import worlds

from mlenv.ckpt import names

if TYPE_CHECKING:
    import torch

STEP = names.folder(5, 1)


def weights(net: torch.nn.Module) -> dict[str, Any]:
    """All of them, whole, by names without wrappers."""
    from torch.distributed.tensor import DTensor

    whole = {
        name: one.full_tensor() if isinstance(one, DTensor) else one for name, one in net.state_dict().items()
    }
    return {name.removeprefix("module."): one.tolist() for name, one in whole.items()}


def source(rank: int, how: str, folder: str, more: dict[str, Any]) -> Any:
    """A job that saves after five steps; its weights then."""
    import os

    from mlenv.ckpt.checkpointer import Checkpointer

    del rank
    things = programs.Things(how)
    node = f"/node-{os.environ['GROUP_RANK']}" if more.get("per_node") else ""
    Path(folder).mkdir(exist_ok=True)
    with Checkpointer(folder + node, every=5, **more, **things.all()) as ck:
        for step in range(5):
            things.step(step)
            ck.commit(step + 1)
    return weights(things.net)


def begin(rank: int, how: str, taken: str, own: str, wanted: tuple[str, ...]) -> Any:
    """Another job that starts from the checkpoint `taken`, and saves after its first step."""
    import os

    from mlenv.ckpt.checkpointer import Checkpointer

    del rank
    things = programs.Things(how, seed=7)
    fresh = weights(things.net)
    per_node = os.environ["GROUP_RANK"] != "0" or "NODES" in os.environ
    where = f"{own}-{os.environ['GROUP_RANK']}"
    with Checkpointer(where, every=1, per_node=per_node, **things.all()) as ck:
        assert ck.restore().step == 0
        start = ck.start_from(Path(taken), wanted)
        found = weights(things.net)
        moments = len(things.opt.state)
        things.step(0)
        ck.commit(start.step + 1)
        ck.wait()
        return {
            "fresh": fresh,
            "weights": found,
            "moments": moments,
            "step": start.step,
            "saved": ck.stats.errors,
        }


@pytest.mark.parametrize(
    ("how", "world"),
    [
        ("fsdp", 2),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in (("fsdp", 4), ("noema", 2), ("noema", 1))),
    ],
)
@pytest.mark.parametrize("wanted", [("net",), ()])
def test_another_job_s_shards(tmp_path: Path, how: str, world: int, wanted: tuple[str, ...]) -> None:
    """Its weights, in any world and way of sharding; and all it had, where no more is said."""
    saved = worlds.run(source, tmp_path / "w", 2, "fsdp", str(tmp_path / "source"), {})
    taken = str(tmp_path / "source" / STEP)
    ran = worlds.run(begin, tmp_path / "w", world, how, taken, str(tmp_path / "own"), wanted)
    # Running means are each rank's own, and rank 0's where the world is another one.
    for one, wished in zip(ran, saved if world == 2 else [saved[0]] * world, strict=True):
        assert one["step"] == 0
        assert one["fresh"] != one["weights"] == wished
        assert bool(one["moments"]) is not bool(wanted)
        assert one["saved"] == []


def test_folders_of_nodes_are_a_checkpoint_together(tmp_path: Path) -> None:
    """One node's part lacks the other's shards, and is refused; put into one folder both are enough.

    The job that starts from it has a folder per node, and no shared volume, itself.
    """
    kept = tmp_path / "source"
    saved = worlds.run(source, tmp_path / "w", 2, "fsdp", str(kept), {"per_node": True}, nodes=2)
    alone = kept / "node-0" / STEP
    args = ("fsdp", str(alone), str(tmp_path / "own"), ("net",))
    ended = worlds.finish(
        worlds.start(begin, tmp_path / "w", 2, *args, nodes=2, env={"NODES": ""}), tmp_path / "w"
    )
    for one in ended:
        assert "NothingToResume: this job starts from" in one.error
        assert "shards/__1_0.distcp is missing" in one.error
    shutil.copytree(kept / "node-1" / STEP, alone, dirs_exist_ok=True)
    ran = worlds.run(begin, tmp_path / "w", 2, *args, nodes=2, env={"NODES": ""})
    for one, wished in zip(ran, saved, strict=True):
        assert one["fresh"] != one["weights"] == wished
        assert one["saved"] == []
    assert (tmp_path / "own-0" / names.folder(1, 1) / names.SEAL).exists()
    assert not (tmp_path / "own-0" / names.folder(1, 1) / "shards" / "__1_0.distcp").exists()


@pytest.mark.slow
def test_one_node_has_all_that_another_job_needs_of_replicas(tmp_path: Path) -> None:
    kept = tmp_path / "source"
    saved = worlds.run(source, tmp_path / "w", 2, "noema", str(kept), {"per_node": True}, nodes=2)
    for node in (0, 1):
        taken = str(kept / f"node-{node}" / STEP)
        own = str(tmp_path / f"own{node}")
        ran = worlds.run(begin, tmp_path / "w", 2, "fsdp", taken, own, ("net",))
        for one, wished in zip(ran, saved, strict=True):
            assert one["fresh"] != one["weights"] == wished
