"""Tests that mostly wait, all at once: each is a function in a thread of its own, reported by itself."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest

T = TypeVar("T")
AT_ONCE = 10
"""Each holds some pods, and two cores start about two of them a second."""


class Scenarios(Generic[T]):
    """Functions of one argument, registered by decoration."""

    def __init__(self) -> None:
        self._functions: dict[str, Callable[[T], None]] = {}

    def __call__(self, function: Callable[[T], None]) -> Callable[[T], None]:
        """Register."""
        self._functions[function.__name__] = function
        return function

    @property
    def names(self) -> list[str]:
        """All that are registered, in their order."""
        return list(self._functions)

    @contextmanager
    def running(self, argument: T, chosen: list[str]) -> Iterator[dict[str, Future[None]]]:
        """The chosen ones, begun in their order, each as soon as there is room."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            try:
                yield {name: pool.submit(self._functions[name], argument) for name in chosen}
            finally:
                pool.shutdown(cancel_futures=True)


def chosen(request: pytest.FixtureRequest, parameter: str) -> list[str]:
    """The values of a parameter among the tests of this module that were selected."""
    calls = (getattr(item, "callspec", None) for item in request.session.items if item.path == request.path)
    return list(dict.fromkeys(call.params[parameter] for call in calls if call and parameter in call.params))
