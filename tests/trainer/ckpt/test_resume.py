"""A Checkpointer in new processes: the same world goes on bit for bit, another one has the same bits."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import programs
import pytest
import worlds
from test_faults import reseal

from mlenv.ckpt import names

if TYPE_CHECKING:
    from pathlib import Path

GENERATORS = ("rng", "python")


def unequal(left: dict[str, bytes], right: dict[str, bytes]) -> list[str]:
    names = left.keys() | right.keys()
    return [name for name in sorted(names) if left.get(name) != right.get(name)]


@pytest.mark.parametrize(
    ("how", "world"),
    [
        pytest.param("ddp", 1, marks=pytest.mark.slow),
        pytest.param("ddp", 2, marks=pytest.mark.slow),
        ("ddp", 4),
        ("fsdp", 2),
        pytest.param("fsdp", 4, marks=pytest.mark.slow),
        pytest.param("hsdp", 4, marks=pytest.mark.slow),
    ],
)
def test_goes_on_as_if_nothing_had_happened(tmp_path: Path, how: str, world: int) -> None:
    ref = worlds.run(programs.train, tmp_path / "w", world, how, str(tmp_path / "ref"), 12)
    worlds.run(programs.train, tmp_path / "w", world, how, str(tmp_path / "ck"), 8)
    again = worlds.run(programs.train, tmp_path / "w", world, how, str(tmp_path / "ck"), 12)
    for undisturbed, resumed in zip(ref, again, strict=True):
        assert resumed["start"] == 5
        assert unequal(undisturbed["state"], resumed["state"]) == []
        assert all(undisturbed["losses"][step] == loss for step, loss in resumed["losses"].items())


@pytest.mark.parametrize(
    "chain",
    [
        pytest.param([("fsdp", 1), ("fsdp", 2), ("fsdp", 4), ("fsdp", 1)], marks=pytest.mark.slow),
        pytest.param([("hsdp", 4), ("fsdp", 2), ("hsdp", 4), ("noema", 1)], marks=pytest.mark.slow),
        pytest.param([("plain", 1), ("ddp", 2), ("ddp", 4), ("plain", 1)], marks=pytest.mark.slow),
        [("noema", 2), ("fsdp", 4), ("noema", 2), ("fsdp", 2)],
    ],
    ids=["fsdp", "hsdp", "ddp", "ddp-fsdp"],
)
def test_another_world_or_wrapper_has_the_same_bits(tmp_path: Path, chain: list[tuple[str, int]]) -> None:
    """Each world loads what the first one saved, saves it again at the next step, and shows what it holds."""
    folder = str(tmp_path / "ck")
    how, world = chain[0]
    first = worlds.run(programs.train, tmp_path / "w", world, how, folder, 5)[0]["state"]
    for number, (how, world) in enumerate(chain[1:], 6):
        shown = worlds.run(programs.resave, tmp_path / "w", world, how, folder, number)
        assert [one["start"] for one in shown] == [number - 1] * world
        for one in shown:
            left = {n: b for n, b in first.items() if n not in GENERATORS}
            right = {n: b for n, b in one["state"].items() if n not in GENERATORS}
            assert unequal(left, right) == []


@pytest.mark.slow
def test_generators_differ_by_rank_and_are_counted_in_another_world(tmp_path: Path) -> None:
    folder = str(tmp_path / "ck")
    saved = worlds.run(programs.train, tmp_path / "w", 2, "ddp", folder, 5)
    same = worlds.run(programs.resave, tmp_path / "w", 2, "ddp", folder, 6)
    assert [one["state"]["rng"] for one in saved] == [one["state"]["rng"] for one in same]
    runs: list[list[Any]] = [
        [one["state"]["rng"] for one in worlds.run(programs.resave, tmp_path / "w", 4, "ddp", folder, None)]
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 4


def test_shards_that_changed_places_are_seen(tmp_path: Path) -> None:
    """By their hashes; and where only the map is wrong, by what the tensor adds up to after loading."""
    folder = tmp_path / "ck"
    worlds.run(programs.train, tmp_path / "w", 2, "fsdp", str(folder), 10)
    at = folder / names.folder(10, 1)
    first, second = (at / "shards" / f"__{rank}_0.distcp" for rank in (0, 1))
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)
    again = worlds.run(programs.resave, tmp_path / "w", 1, "fsdp", str(folder), None)[0]
    assert again["start"] == 5
    assert "shards/__0_0.distcp" in again["passed"][0]
    second.write_bytes(first.read_bytes())
    first.write_bytes(kept)
    swap_places(at, "net.a.weight")
    again = worlds.run(programs.resave, tmp_path / "w", 1, "fsdp", str(folder), None)[0]
    assert again["start"] == 5
    assert again["passed"] == [
        "comparing: net.a.weight is not what was sealed after it was loaded on rank 0",
    ]


def swap_places(folder: Path, name: str) -> None:
    """Have the metadata say of two shards of a tensor that each lies where the other does, and seal that."""
    path = folder / "shards" / names.METADATA
    metadata = pickle.loads(path.read_bytes())
    one, two = (index for index in metadata.storage_data if index.fqn == name)
    data = metadata.storage_data
    data[one], data[two] = data[two], data[one]
    path.write_bytes(pickle.dumps(metadata))
    reseal(folder, f"shards/{names.METADATA}")
