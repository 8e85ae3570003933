"""What the garbage collector is told while caches fill."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import TYPE_CHECKING

import pytest

from mlenv_operator.runtime import heap

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()


class Knot:
    """Only the garbage collector can undo it."""

    def __init__(self) -> None:
        self.me = self


async def test_what_fills_the_caches_is_walked_no_more_already_while_they_fill(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heap, "EVERY_S", 0.001)
    async with heap.filling():
        assert gc.get_freeze_count() == 0
        async with asyncio.timeout(30):
            while not gc.get_freeze_count():  # noqa: ASYNC110  (the collector tells nobody)
                await asyncio.sleep(0.001)


async def test_the_end_settles_what_came_last_and_frees_what_nobody_holds() -> None:
    knot = Knot()
    gone = weakref.ref(knot)
    async with heap.filling():
        del knot
    assert gone() is None
    assert gc.get_freeze_count() > 0


async def test_nothing_goes_on_after_the_end_or_a_failure() -> None:
    before = asyncio.all_tasks()
    with pytest.raises(ValueError, match="no"):
        async with heap.filling():
            raise ValueError("no")
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
