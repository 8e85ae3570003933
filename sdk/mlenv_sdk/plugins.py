"""Subcommands that other packages bring, loaded only when they are asked for."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

GROUP = "mlenv.commands"
"""Entry points of this group name a ``typer.Typer``."""


def add_commands(app: typer.Typer, words: Sequence[str], points: Iterable[EntryPoint] | None = None) -> None:
    """Adds every entry point to ``app``; only those named in ``words`` (the command line) are imported.

    A broken one becomes a command that says so in one line: it must not break the others.
    """
    for point in entry_points(group=GROUP) if points is None else points:
        if point.name in words:
            _load(app, point)
        else:
            _announce(app, point)


def _load(app: typer.Typer, point: EntryPoint) -> None:
    try:
        loaded = point.load()
    except Exception as error:  # noqa: BLE001  (whatever another package does at import)
        _broken(app, point, f"{type(error).__name__}: {error}")
        return
    if not isinstance(loaded, typer.Typer):
        _broken(app, point, f"{point.value} is no typer.Typer")
        return
    app.add_typer(loaded, name=point.name)


def _announce(app: typer.Typer, point: EntryPoint) -> None:
    """A line for ``mlenv --help``, without importing anything."""
    summary = point.dist.metadata["Summary"] if point.dist else ""
    app.command(point.name, help=f"{summary}.")(lambda: None)


def _broken(app: typer.Typer, point: EntryPoint, reason: str) -> None:
    def tell() -> NoReturn:
        package = point.dist.name if point.dist else point.value
        typer.echo(f'mlenv: the command "{point.name}" of {package} cannot be loaded: {reason}', err=True)
        raise typer.Exit(2)

    settings = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
    app.command(point.name, context_settings=settings)(tell)
