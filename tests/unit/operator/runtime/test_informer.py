from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from mlenv_operator.runtime.clock import FakeClock
from mlenv_operator.runtime.informer import FAILURES_UNTIL_LIST, SLICE, Informer
from mlenv_operator.runtime.reflector import Reflector

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Raw = dict[str, Any]


def raw(name: str, version: str = "1") -> Raw:
    return {"metadata": {"namespace": "ns", "name": name, "uid": name, "resourceVersion": version}}


class ServerError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"answer {code}")
        self.code = code


@dataclass
class Page:
    items: list[Raw]
    resource_version: str = "10"


@dataclass
class Script:
    """A source that plays lists and streams in turn; an exception in one is raised there."""

    clock: FakeClock
    lists: list[list[Page | Exception]] = field(default_factory=list)
    streams: list[list[tuple[str, Raw] | Exception | float]] = field(default_factory=list)
    watched_from: list[str] = field(default_factory=list)
    listed: int = 0

    async def pages(self) -> AsyncIterator[Page]:
        self.listed += 1
        for step in self.lists.pop(0):
            if isinstance(step, Exception):
                raise step
            yield step

    async def watch(self, resource_version: str) -> AsyncIterator[tuple[str, Raw]]:
        self.watched_from.append(resource_version)
        if not self.streams:
            await asyncio.Event().wait()
        for step in self.streams.pop(0):
            if isinstance(step, Exception):
                raise step
            if isinstance(step, float):
                await self.clock.sleep(step)
            else:
                yield step


def informer(script: Script) -> Informer[str]:
    view: Reflector[str] = Reflector(lambda obj: str(obj["metadata"]["resourceVersion"]))
    return Informer("things", script, view, script.clock, random.Random(1))


@asynccontextmanager
async def running(one: Informer[str]) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(one.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_it_lists_then_watches_and_calls_handlers_in_order() -> None:
    clock = FakeClock()
    script = Script(clock, [[Page([raw("a")]), Page([raw("b")], "12")]], [[("ADDED", raw("c", "13")), 600.0]])
    one, seen = informer(script), list[str]()
    one.on_change(lambda change: seen.append(f"{change.type} {change.key.name}"))
    assert not one.synced
    async with running(one):
        await one.wait_synced()
        await clock.settle()
        assert seen == ["Added a", "Added b", "Added c"]
        assert (one.synced, len(one), one.get("ns", "c")) == (True, 3, "13")
        assert script.watched_from == ["12"]


async def test_a_stream_that_ends_is_resumed_where_it_was() -> None:
    clock = FakeClock()
    script = Script(clock, [[Page([])]], [[("ADDED", raw("a", "20"))], [("BOOKMARK", raw("", "30")), 1.0]])
    one = informer(script)
    async with running(one):
        await clock.advance(2)
    assert script.watched_from == ["10", "20", "30"]
    assert script.listed == 1


async def test_410_lists_anew_and_tells_what_is_gone() -> None:
    clock = FakeClock()
    script = Script(clock, [[Page([raw("a"), raw("b")])], [Page([raw("b")], "50")]], [[ServerError(410)]])
    one, seen = informer(script), list[str]()
    one.on_change(lambda change: seen.append(f"{change.type} {change.key.name}"))
    async with running(one):
        await clock.advance(5)
    assert seen == ["Added a", "Added b", "Deleted a"]
    assert script.watched_from == ["10", "50"]


async def test_a_list_that_breaks_off_is_begun_anew_and_nothing_is_deleted_meanwhile() -> None:
    clock = FakeClock()
    broken: list[Page | Exception] = [Page([raw("a")]), ServerError(410)]
    script = Script(clock, [broken, [ServerError(500)], [Page([raw("a")]), Page([raw("b")])]])
    one, seen = informer(script), list[str]()
    one.on_change(lambda change: seen.append(f"{change.type} {change.key.name}"))
    async with running(one):
        await clock.settle()
        assert not one.synced
        await clock.advance(10)
        assert one.synced
    assert seen == ["Added a", "Added b"]


async def test_errors_of_the_watch_are_waited_out_longer_and_longer_then_listed_anew() -> None:
    clock = FakeClock()
    failures: list[list[Any]] = [[ServerError(504)] for _ in range(FAILURES_UNTIL_LIST)]
    script = Script(clock, [[Page([])], [Page([], "77")]], failures)
    async with running(informer(script)):
        await clock.advance(300)
    assert script.watched_from == ["10"] * FAILURES_UNTIL_LIST + ["77"]


async def test_streams_that_end_at_once_do_not_spin() -> None:
    clock = FakeClock()
    script = Script(clock, [[Page([])]], [[] for _ in range(1000)])
    async with running(informer(script)):
        await clock.advance(60)
    assert len(script.watched_from) < 20


async def test_progress_is_remembered() -> None:
    clock = FakeClock()
    script = Script(
        clock, [[Page([])]], [[("BOOKMARK", raw("", "11")), 50.0, ("BOOKMARK", raw("", "12")), 500.0]]
    )
    one = informer(script)
    async with running(one):
        await clock.advance(100)
        assert one.last_progress == 50


async def test_a_mistake_in_a_handler_is_not_hidden() -> None:
    clock = FakeClock()
    one = informer(Script(clock, [[Page([raw("a")])]]))

    def handler(_: object) -> None:
        raise LookupError("mistake")

    one.on_change(handler)
    async with running(one) as task:
        with pytest.raises(LookupError):
            await task


async def test_others_get_their_turn_within_a_long_page() -> None:
    clock = FakeClock()
    script = Script(clock, [[Page([raw(str(number)) for number in range(SLICE * 3)])]])
    one, sizes = informer(script), set[int]()
    async with running(one):
        while not one.synced:
            sizes.add(len(one))
            await asyncio.sleep(0)
    assert {SLICE, SLICE * 2, SLICE * 3} <= sizes
