"""Command lines that end with a sentence, not with a traceback."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, TypeVar

import typer
from rich.console import Console

from mlenv_local.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Callable

    T = TypeVar("T")

_err = Console(stderr=True, highlight=False)


def told(command: Callable[..., T]) -> Callable[..., T]:
    """Print what went wrong as a sentence, not as a traceback."""

    @functools.wraps(command)
    def wrapper(*args: object, **kwargs: object) -> T:
        try:
            return command(*args, **kwargs)
        except LocalError as error:
            _err.print("[red]Error:[/]", end=" ")
            _err.print(str(error), markup=False, soft_wrap=True)
            raise typer.Exit(1) from error

    return wrapper
