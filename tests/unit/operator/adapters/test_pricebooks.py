"""The prices in use, over the life of PriceBooks and of a file that is refreshed."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from mlenv_operator.adapters.metrics import Metrics
from mlenv_operator.adapters.pricebooks import Books, project_book
from mlenv_operator.adapters.pricefiles import FileSource, PriceSourceError, shipped_rows
from mlenv_operator.adapters.refreshing import EVERY_S, refresher_of
from mlenv_operator.cost.facts import HOUR, Node
from mlenv_operator.cost.money import parse_time
from mlenv_operator.cost.pricefile import COLUMNS
from mlenv_operator.kube import errors
from mlenv_operator.kube.resources import PRICE_BOOKS
from mlenv_operator.runtime.clock import FakeClock
from mlenv_operator.runtime.reflector import Change, ChangeType, ObjectKey, WatchEvent
from mlenv_operator.settings import Settings

from .api import MemoryApi, empty_state

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NODE = Node("n", "n", "aws", "us-east-1", "us-east-1a", "p5.48xlarge", "on-demand", gpus=8)
SPOT = Node("s", "s", "aws", "us-east-1", "us-east-1a", "p5.48xlarge", "spot", gpus=8)
AT = parse_time("2026-11-25")
LIST = 55_040_000_000


class Shell:
    """Books over an API server in memory."""

    def __init__(self) -> None:
        self.api, self.clock, self.metrics = MemoryApi(), FakeClock(), Metrics()
        self.books = Books(self.api, self.clock, random.Random(1), self.metrics)  # type: ignore[arg-type]

    def apply(self, paid: str, *, generation: int = 1, uid: str = "u", **match: str) -> None:
        wanted = {"provider": "aws", "region": "us-east-1", "instanceType": "p5.48xlarge", **match}
        price = {"match": wanted, "perHour": paid, "from": "2026-11-01T00:00:00Z"}
        spec = {"source": "contract", "asOf": "2026-11-01T00:00:00Z", "prices": [price]}
        metadata = {"name": "contract", "uid": uid, "generation": generation}
        raw = self.api.add(PRICE_BOOKS, {"metadata": metadata, "spec": spec})
        self.books.changed(Change(ChangeType.MODIFIED, ObjectKey("", "contract"), None, project_book(raw)))

    def delete(self) -> None:
        self.api.objects.clear()
        self.books.changed(Change(ChangeType.DELETED, ObjectKey("", "contract"), None, None))

    def paid(self, node: Node = NODE) -> int | None:
        row = self.books.prices.price(node, AT)
        return None if row is None else row.effective_nanos_per_hour

    def status(self) -> dict[str, Any]:
        return self.api.objects["pricebooks", "", "contract"].get("status", {})

    def age(self, book: str) -> float | None:
        self.metrics.refresh()
        return self.metrics.registry.get_sample_value("mlenv_operator_price_book_age_seconds", {"book": book})


@pytest.fixture
async def shell() -> AsyncIterator[Shell]:
    made = Shell()
    task = asyncio.create_task(made.books.run())
    yield made
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def until(shell: Shell, generation: int) -> dict[str, Any]:
    for _ in range(10_000):
        if shell.status().get("observedGeneration") == generation:
            return shell.status()
        await asyncio.sleep(0)
    raise AssertionError(shell.status())


async def test_a_book_prices_over_what_ships_and_its_end_brings_that_back(shell: Shell) -> None:
    assert shell.paid() == LIST
    shell.apply("41.28")
    assert shell.paid() == 41_280_000_000
    told = await until(shell, 1)
    assert [(one["type"], one["status"]) for one in told["conditions"]] == [
        ("Ready", "True"),
        ("Stalled", "False"),
    ]
    shell.delete()
    assert shell.paid() == LIST


async def test_the_ledger_is_told_what_it_needs_and_keeps_the_whole_row(shell: Shell) -> None:
    before = shell.books.version()
    shell.apply("41.28")
    assert shell.books.version() != before
    (segment,) = shell.books.segments(NODE, AT, AT + HOUR)
    assert (segment.t0, segment.t1, segment.effective_nano_per_hour) == (AT, AT + HOUR, 41_280_000_000)
    row = shell.books.describe(segment.price_id)
    assert row["source"] == "PriceBook contract: contract"
    assert row["effective_nanos_per_hour"] == segment.effective_nano_per_hour
    assert (row["instance_type"], "until" in row, shell.books.describe("none")) == ("p5.48xlarge", False, {})
    unknown = replace(NODE, instance_type="of-nobody")
    assert [one.price_id for one in shell.books.segments(unknown, AT, AT + HOUR)] == [""]


async def test_a_refused_version_leaves_the_one_before_in_use(shell: Shell) -> None:
    shell.apply("41.28")
    await until(shell, 1)
    shell.apply("0", generation=2)
    told = await until(shell, 2)
    assert shell.paid() == 41_280_000_000
    assert (told["acceptedGeneration"], told["conditions"][1]["status"]) == (1, "True")
    shell.apply("40", generation=3)
    assert (await until(shell, 3))["acceptedGeneration"] == 3
    assert shell.paid() == 40_000_000_000


async def test_a_new_book_of_the_same_name_does_not_inherit(shell: Shell) -> None:
    shell.apply("41.28")
    shell.apply("0", uid="another")
    assert shell.paid() == LIST


async def test_nothing_is_written_that_is_written_already(shell: Shell) -> None:
    shell.apply("41.28")
    await until(shell, 1)
    writes = len(shell.api.writes)
    stored = shell.api.objects["pricebooks", "", "contract"]
    for _ in range(3):
        shell.books.changed(
            Change(ChangeType.MODIFIED, ObjectKey("", "contract"), None, project_book(stored))
        )
        for _ in range(50):
            await asyncio.sleep(0)
    assert len(shell.api.writes) == writes == 1


async def test_a_status_that_could_not_be_written_is_tried_again(shell: Shell) -> None:
    failures = [errors.LeaseLost("not ours"), errors.Conflict("changed", code=409)]
    shell.api.fails = lambda *_: failures.pop() if failures else None
    shell.apply("41.28")
    for _ in range(20):
        for _ in range(50):
            await asyncio.sleep(0)
        await shell.clock.advance(30)
    assert shell.status()["observedGeneration"] == 1


async def test_the_age_of_every_book_can_be_seen(shell: Shell) -> None:
    shell.apply("41.28")
    now = int(shell.clock.now().timestamp())
    assert shell.age("contract") == max(0, now - parse_time("2026-11-01") // 10**6)
    assert shell.age("shipped") is not None
    shell.delete()
    assert shell.age("contract") is None


async def test_what_has_no_price_is_known(shell: Shell) -> None:
    assert [one.capacity_type for one in shell.books.prices.missing([NODE, SPOT], AT)] == ["spot"]
    shell.apply("20", capacityType="spot")
    assert shell.books.prices.missing([NODE, SPOT], AT) == ()


def file(path: Path, *rows: str) -> FileSource:
    path.write_text("\n".join([",".join(COLUMNS), *rows]))
    return FileSource(path)


SPOT_ROW = "aws,us-east-1,,p5.48xlarge,spot,,2026-11-24,,55.04,21.5,a list,2026-11-24"


async def test_a_file_refreshes_prices_and_a_broken_one_changes_nothing(shell: Shell, tmp_path: Path) -> None:
    source = file(tmp_path / "spot.csv", SPOT_ROW, SPOT_ROW.replace("us-east-1", "us-west-2"))
    assert shell.paid(SPOT) is None
    assert await shell.books.refresh(source, "aws", "us-east-1", {"p5.48xlarge"})
    assert shell.paid(SPOT) == 21_500_000_000
    broken = file(tmp_path / "spot.csv", SPOT_ROW.replace("21.5", "99"))
    assert not await shell.books.refresh(broken, "aws", "us-east-1", {"p5.48xlarge"})
    assert shell.paid(SPOT) == 21_500_000_000
    shell.apply("20", capacityType="spot")
    assert shell.paid(SPOT) == 20_000_000_000


async def test_a_price_list_that_a_setting_names_is_read_again_and_again(
    shell: Shell, tmp_path: Path
) -> None:
    file(tmp_path / "spot.csv", SPOT_ROW, SPOT_ROW.replace("p5.48xlarge", "p4d.24xlarge"))
    state = empty_state(shell.clock)
    assert refresher_of(settings(""), shell.books, state) is None
    made = refresher_of(settings(str(tmp_path / "spot.csv")), shell.books, state)
    assert made is not None
    task = asyncio.create_task(made.run())
    labels = {
        "node.kubernetes.io/instance-type": "p5.48xlarge",
        "topology.kubernetes.io/region": "us-east-1",
        "karpenter.sh/capacity-type": "spot",
    }
    raw = {
        "metadata": {"name": "s", "uid": "s", "labels": labels},
        "spec": {"providerID": "aws:///us-east-1a/i-1"},
    }
    state.caches.nodes._feed(WatchEvent("ADDED", raw))
    await paid_at(shell, 21_500_000_000)
    assert shell.age("refreshed") is not None
    # Of machines that the cluster does not have it asks nothing.
    assert {row.instance_type for row in shell.books.prices.rows if row.priority == 50} == {"p5.48xlarge"}
    file(tmp_path / "spot.csv", SPOT_ROW.replace("21.5", "NaN"))
    await shell.clock.advance(EVERY_S)
    file(tmp_path / "spot.csv", SPOT_ROW.replace("21.5", "22"))
    await paid_at(shell, 22_000_000_000)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def settings(price_file: str) -> Settings:
    return Settings(namespace="mlenv-system", pod_name="op", price_file=price_file)


async def paid_at(shell: Shell, nanos: int) -> None:
    """The file is read in a thread, each time that so much time has passed."""
    async with asyncio.timeout(60):
        while shell.paid(SPOT) != nanos:
            await shell.clock.advance(EVERY_S)
            await asyncio.sleep(0.01)


def test_a_source_gives_what_it_is_asked_for(tmp_path: Path) -> None:
    everywhere = SPOT_ROW.replace("us-east-1", "").replace("p5.48", "p4d.24")
    source = file(tmp_path / "spot.csv", SPOT_ROW, everywhere, SPOT_ROW.replace("us-east-1", "us-west-2"))
    found = source.fetch("aws", "us-east-1", {"p5.48xlarge", "p4d.24xlarge"})
    assert sorted((row.region, row.instance_type, row.priority) for row in found) == [
        ("", "p4d.24xlarge", 50),
        ("us-east-1", "p5.48xlarge", 50),
    ]
    assert source.fetch("gcp", "us-east-1", {"p5.48xlarge"}) == ()
    assert source.fetch("aws", "us-east-1", ()) == ()


def test_a_source_that_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(PriceSourceError, match="cannot be read"):
        FileSource(tmp_path / "none.csv").fetch("aws", "us-east-1", {"p5.48xlarge"})
    with pytest.raises(PriceSourceError, match="correct the file"):
        file(tmp_path / "bad.csv", SPOT_ROW.replace("21.5", "NaN")).fetch("aws", "r", ())


def test_what_ships_prices_no_spot_node_of_today() -> None:
    assert not [row for row in shipped_rows() if row.capacity_type == "spot" and row.in_force(AT)]
