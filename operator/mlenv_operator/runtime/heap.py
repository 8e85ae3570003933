"""What the garbage collector and malloc are told about a process that keeps hundred thousands of objects."""

from __future__ import annotations

import asyncio
import ctypes
import gc
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

EVERY_S: Final = 0.2


@asynccontextmanager
async def filling() -> AsyncIterator[None]:
    """While caches fill that will live as long as the process.

    The garbage collector need not walk them again and again: with 10,000 jobs each of its full collections
    was a stall of 0.3 s, and there were two a second. At the end, unused memory goes back to the system.
    """
    settler = asyncio.create_task(_settle_often())
    try:
        yield
    finally:
        settler.cancel()
        _settle()
        _give_back()


async def _settle_often() -> None:
    while True:
        await asyncio.sleep(EVERY_S)
        _settle()


def _settle() -> None:
    """Only what came since the last time is walked: what was there before is not looked at any more."""
    gc.collect()
    gc.freeze()


def _give_back() -> None:
    """Pages of lists leave holes; not every C library has a word for closing them."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
