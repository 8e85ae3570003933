"""Console lines as the client logs them: a level, a time and a label in front of what was printed."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LINE = re.compile(
    r"(?P<level>ERROR )?(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?) "
    r"(?:\[(?P<label>[^\]]*)\] )?(?P<text>.*)",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class ConsoleLine:
    """What was printed, and what the client said of it."""

    text: str
    level: str = "info"
    timestamp: str | None = None
    label: str = ""


def parse(line: str) -> ConsoleLine:
    """Take the client's prefix off; a line without one is only text."""
    match = _LINE.fullmatch(line.rstrip("\n"))
    if match is None:
        return ConsoleLine(line.rstrip("\n"))
    return ConsoleLine(
        text=match["text"],
        level="error" if match["level"] else "info",
        timestamp=f"{match['time']}Z",
        label=match["label"] or "",
    )
