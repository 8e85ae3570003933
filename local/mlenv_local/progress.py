"""Telling a person what happens: spinners, ticks and bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import (
    Progress as Bar,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

LINE_SECONDS = 15.0


class Progress(Protocol):
    """Where long work reports how far it is."""

    def advance(self, done: float, note: str) -> None:
        """Say that `done` (0 to 1) is done and what is worked on."""


class Reporter:
    """Reports to standard error, so that standard output stays usable by scripts."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Announce a step, and say how long it took when it succeeds."""
        began = time.monotonic()
        with self.console.status(title) if self.console.is_terminal else contextlib.nullcontext():
            yield
        self._tick(title, began)

    @contextlib.contextmanager
    def progress(self, title: str) -> Iterator[Progress]:
        """Announce long work that can say how far it is."""
        began = time.monotonic()
        if self.console.is_terminal:
            with _bar(self.console) as bar:
                yield BarProgress(bar, bar.add_task(title, total=1.0, note="", left=""), began)
        else:
            self.say(title)
            yield LineProgress(self, began)
        self._tick(title, began)

    def say(self, sentence: str) -> None:
        """Print one line."""
        self.console.print(sentence)

    def _tick(self, title: str, began: float) -> None:
        self.console.print(f"[green]✓[/] {title} [dim]{time.monotonic() - began:.1f} s[/]")


class Silent(Reporter):
    """Says nothing."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True))


class BarProgress:
    """A bar with an estimate."""

    def __init__(self, bar: Bar, task: TaskID, began: float) -> None:
        self._bar, self._task, self._began = bar, task, began

    def advance(self, done: float, note: str) -> None:
        """Move the bar."""
        left = remaining(done, time.monotonic() - self._began)
        self._bar.update(self._task, completed=done, note=note[-60:], left=left)


class LineProgress:
    """A line now and then, for logs."""

    def __init__(self, reporter: Reporter, began: float) -> None:
        self._reporter, self._began, self._last = reporter, began, began

    def advance(self, done: float, note: str) -> None:
        """Print a line if the last one is a while ago."""
        now = time.monotonic()
        if now - self._last >= LINE_SECONDS:
            self._last = now
            self._reporter.say(f"  {done:4.0%}  {remaining(done, now - self._began)}  {note}")


def remaining(done: float, elapsed: float) -> str:
    """Say how long it will take at the pace so far; nothing sensible is known before 3 %."""
    if done < 0.03:
        return "estimating"
    seconds = elapsed * (1 - done) / done
    return f"about {seconds / 60:.0f} min left" if seconds > 90 else f"about {seconds:.0f} s left"


def _bar(console: Console) -> Bar:
    note = TextColumn("[dim]{task.fields[left]}  {task.fields[note]}")
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), note)
    return Bar(*columns, console=console, transient=True)
