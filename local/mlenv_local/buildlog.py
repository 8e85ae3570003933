"""Understanding what `go build -v` prints well enough to say how far it is."""

from __future__ import annotations

from collections import deque

# Shares of the time, measured with empty caches on two cores: downloads, compilation, linking.
_DOWNLOAD, _COMPILE, _LINK = 0.15, 0.75, 0.10


class BuildLog:
    """Counts downloads, compiled packages and linked programs."""

    def __init__(self, *, modules: int, programs: int) -> None:
        self.modules = modules
        self.programs = programs
        self.packages = 0
        self.note = "resolving modules"
        self.last: deque[str] = deque(maxlen=20)
        self._downloaded = 0
        self._compiled = 0
        self._linked = 0
        self._errors = False

    def read(self, line: str, *, linked: int = 0) -> None:
        """Take in one line of Go's standard error."""
        line = line.strip()
        self.last.append(line)
        self._linked = linked
        if line.startswith("go: downloading "):
            self._downloaded += 1
            self.note = line.removeprefix("go: ")
        elif line and " " not in line:
            self._compiled += 1
            self.note = f"compiling {line}"

    @property
    def fraction(self) -> float:
        """How much is done, 0 to 1; downloads that were not needed count once compilation begins."""
        downloads = 1.0 if self._compiled else min(1.0, self._downloaded / max(1, self.modules))
        compiled = min(1.0, self._compiled / self.packages) if self.packages else 0.0
        linked = min(1.0, self._linked / self.programs)
        return _DOWNLOAD * downloads + _COMPILE * compiled + _LINK * linked
