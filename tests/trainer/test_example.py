"""The MovieLens example: its data on a tiny file of the same format, and a whole run on it."""

from __future__ import annotations

import importlib.util
import json
import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import yaml

import mlenv as ml
from mlenv import job as jobs
from mlenv_api.trainingjob import TrainingJobSpec

if TYPE_CHECKING:
    from types import ModuleType

FOLDER = Path(__file__).parents[2] / "examples" / "movielens_ranker"


def load_module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def movielens() -> Any:
    return load_module("movielens")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """40 ratings; the newest four are of a new user, and two of them of a new movie."""
    rng = np.random.default_rng(0)
    old = [f"{1 + i % 4}\t{10 + i % 5}\t{rng.integers(1, 6)}\t{1000 + i}" for i in range(36)]
    new = [f"9\t{item}\t{stars}\t2000" for item, stars in ((10, 5), (11, 1), (98, 4), (99, 2))]
    users = [f"{u}\t{20 + u}\tM\twriter\t{u}0101" for u in range(1, 5)] + ["9\t33\tF\tdoctor\tT8H1N"]
    items = [f"{i}\tMovie, the\t1995\tDrama War" for i in range(10, 15)] + [
        "98\tOdd\t\tunknown",
        "99\tNew\t1998\tWar",
    ]
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    (tmp_path / "ml-100k.inter").write_text("\n".join([header, *reversed([*old, *new])]) + "\n")
    (tmp_path / "ml-100k.user").write_text("\n".join(["user_id:token\tage:token\t…", *users]) + "\n")
    (tmp_path / "ml-100k.item").write_text("\n".join(["item_id:token\t…", *items]) + "\n")
    return tmp_path


def test_the_newest_tenth_is_held_out_and_unseen_values_are_unknown(movielens: Any, data: Path) -> None:
    ratings = movielens.load(data)
    assert (len(ratings.labels), ratings.train) == (40, 36)
    assert ratings.labels[36:].tolist() == [1, 0, 1, 0]
    codes = ratings.fields - ratings.firsts
    assert (codes[:36, :2] > 0).all()
    assert codes[36:, 0].tolist() == [0, 0, 0, 0]
    assert [bool(code) for code in codes[36:, 1]] == [True, True, False, False]
    assert ratings.fields.max() < ratings.rows
    ends = [*ratings.firsts[1:], ratings.rows]
    assert (ratings.fields < np.array(ends)).all()
    assert ratings.genres.shape == (40, 3)


def test_baseline_by_hand(movielens: Any, data: Path) -> None:
    ratings = movielens.load(data)
    old = [(u, i, s) for u, i, s in zip(*ratings.fields.T[:2], ratings.stars, strict=True)][:36]
    mean = float(np.mean([s for _, _, s in old]))
    item = {i: float(np.mean([s for _, j, s in old if j == i])) for i in {i for _, i, _ in old}}
    scores = [mean + item.get(i, mean) for i in ratings.fields[36:, 1]]
    assert movielens.baseline(ratings) == pytest.approx(movielens.auc(ratings.labels[36:], np.array(scores)))


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_the_share_of_ordered_pairs(movielens: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.random(60) < 0.4).astype(np.float32)
    scores = rng.integers(0, 9, 60).astype(float)
    pairs = [(p > n) + (p == n) / 2 for p in scores[labels > 0] for n in scores[labels == 0]]
    assert movielens.auc(labels, scores) == pytest.approx(np.mean(pairs))
    assert np.isnan(movielens.auc(np.ones(3, np.float32), np.arange(3.0)))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_any_world_sees_the_same_global_batches(movielens: Any, world: int) -> None:
    alone = movielens.Shard(100, 16, rank=0, world=1, seed=3)
    ranks = [movielens.Shard(100, 16, rank=rank, world=world, seed=3) for rank in range(world)]
    for shard in (alone, *ranks):
        shard.set_epoch(4)
    together = [np.sort(np.concatenate(parts)) for parts in zip(*ranks, strict=True)]
    assert len(together) == len(alone) == 6
    assert all((np.sort(batch) == mine).all() for batch, mine in zip(alone, together, strict=True))


def test_epochs_differ(movielens: Any) -> None:
    shard = movielens.Shard(64, 64, rank=0, world=1, seed=0)
    (first,) = shard
    shard.set_epoch(1)
    (second,) = shard
    assert not np.array_equal(first, second)
    assert np.array_equal(np.sort(first), np.sort(second))


def test_a_restart_goes_on_in_the_middle_of_an_epoch(movielens: Any, tmp_path: Path) -> None:
    def train(total: int, checkpoint: ml.Checkpoints | None) -> list[list[int]]:
        shard, seen = movielens.Shard(60, 12, rank=0, world=1, seed=3), []
        job = ml.Job(run_dir=tmp_path)
        with ml.Session(job, checkpoint=checkpoint, net=torch.nn.Linear(1, 1), data=shard) as run:
            for index in run.steps(total):
                seen.append(index.tolist())
                run.commit()
        return seen

    every = ml.Checkpoints(every_steps=7)
    assert train(8, every)[:7] + train(14, every) == train(14, None)


def test_it_runs_as_a_user_would_run_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(jobs, "_current", None)
    monkeypatch.setenv("MLENV_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.syspath_prepend(FOLDER)
    script = FOLDER / "train.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--data", str(data), "--epochs", "2", "--batch", "12"])
    runpy.run_path(str(script), run_name="__main__")
    assert "user mean + movie mean" in capsys.readouterr().out
    progress = json.loads((tmp_path / "run" / "progress.json").read_text())["progress"]
    assert (progress["step"], progress["samples"]) == (6, 72)
    assert {"loss", "auc", "baseline_auc"} <= set(progress["metrics"])


def test_files_are_checked_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    prepare = load_module("prepare")
    names = list(prepare.FILES)
    monkeypatch.setattr(prepare, "FILES", {name: hashlib.sha256(name.encode()).hexdigest() for name in names})
    fetched = []

    def unpack(target: Path) -> None:
        fetched.append(target)
        (target / prepare.INSIDE).mkdir(parents=True)
        for name in names:
            (target / prepare.INSIDE / name).write_text(name)

    monkeypatch.setattr(prepare, "_unpack_wheel", unpack)
    folder = tmp_path / "data"
    prepare.prepare(folder)
    prepare.prepare(folder)
    assert len(fetched) == 1
    (folder / names[0]).write_text("damaged")
    prepare.prepare(folder)
    assert len(fetched) == 2
    assert prepare.wrong(folder) == []
    monkeypatch.setattr(prepare, "FILES", {**prepare.FILES, names[1]: "0" * 64})
    with pytest.raises(SystemExit, match="not what this example was made for"):
        prepare.prepare(folder)


def test_the_job_is_valid() -> None:
    job = yaml.safe_load((FOLDER / "job.yaml").read_text())
    spec = TrainingJobSpec.model_validate(job["spec"])
    assert (spec.trainer.num_nodes, spec.trainer.num_proc_per_node) == (2, 1)
    assert Path(spec.trainer.command[0]).name == "train.py"
    spread = spec.pod_template_overrides.spec.topology_spread_constraints[0]
    assert spread["labelSelector"]["matchLabels"] == {"mlenv.io/job-name": job["metadata"]["name"]}
