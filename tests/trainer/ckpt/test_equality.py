"""Ten steps, a restart in new processes and ten steps more, against twenty: bit for bit or not, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import programs
import pytest
import worlds

if TYPE_CHECKING:
    from pathlib import Path


def differing(folder: Path, world: int, how: str, options: dict[str, Any]) -> set[str]:
    """What is not equal: "losses", and names of tensors, on any rank."""
    at = str(folder)
    through = worlds.run(programs.uninterrupted, folder, world, how, options, at, (0, 20))
    first = worlds.run(programs.uninterrupted, folder, world, how, options, at, (0, 10))
    second = worlds.run(programs.uninterrupted, folder, world, how, options, at, (10, 20))
    found: set[str] = set()
    for whole, before, after in zip(through, first, second, strict=True):
        if whole[0] != before[0] + after[0]:
            found.add("losses")
        found |= {a[0] for a, b in zip(whole[1], after[1], strict=True) if a != b}
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"gradient_as_bucket_view": True}, marks=pytest.mark.slow),
        pytest.param({"bucket_cap_mb": 1000}, marks=pytest.mark.slow),
        pytest.param({"static_graph": True}, marks=pytest.mark.slow),
    ],
    ids=["plain", "bucket-view", "one-bucket", "static-graph"],
)
def test_ddp_of_four_ranks_is_another_run_after_a_restart(tmp_path: Path, options: dict[str, Any]) -> None:
    found = differing(tmp_path, 4, "ddp", options)
    assert "losses" in found
    assert ".net.module.first.weight" in found


@pytest.mark.parametrize(
    ("world", "options"),
    [
        pytest.param(2, {}, marks=pytest.mark.slow),
        pytest.param(4, {"find_unused_parameters": True}, marks=pytest.mark.slow),
        pytest.param(2, {"mend": True}, marks=pytest.mark.slow),
        (4, {"mend": True}),
        pytest.param(4, {"mend": True, "gradient_as_bucket_view": True}, marks=pytest.mark.slow),
    ],
    ids=["plain-of-two", "find-unused", "ordered-of-two", "ordered", "ordered-bucket-view"],
)
def test_ddp_is_equal_where_buckets_stay_or_sums_have_two_terms(
    tmp_path: Path, world: int, options: dict[str, Any]
) -> None:
    assert differing(tmp_path, world, "ddp", options) == set()


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_fully_shard_is_equal(tmp_path: Path, world: int) -> None:
    assert differing(tmp_path, world, "fsdp", {}) == set()


def test_ordered_ddp_trains_as_plain_ddp_does(tmp_path: Path) -> None:
    """At two ranks a sum has one order, so both must agree in every bit."""
    for folder in ("plain", "ordered"):
        (tmp_path / folder).mkdir()
    plain = worlds.run(programs.uninterrupted, tmp_path / "w", 2, "ddp", {}, str(tmp_path / "plain"), (0, 10))
    ordered = worlds.run(
        programs.uninterrupted, tmp_path / "w", 2, "ddp", {"mend": True}, str(tmp_path / "ordered"), (0, 10)
    )
    assert plain == ordered
