"""Log lines: whole, prefixed with attempt and rank, never lost, whatever bytes they hold. Pure."""

from __future__ import annotations

import re
from collections import deque
from typing import Final

MAX_LINE: Final = 16 * 1024
"""Longer lines are split, as container runtimes would do, so that each piece has a prefix."""
TAIL_LINES: Final = 100


class Lines:
    """Cuts a stream of bytes into lines."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their ends."""
        self._rest += data
        *whole, rest = bytes(self._rest).split(b"\n")
        self._rest = bytearray(rest)
        lines = [piece for line in whole for piece in _pieces(line)]
        while len(self._rest) > MAX_LINE:
            lines.append(bytes(self._rest[:MAX_LINE]))
            del self._rest[:MAX_LINE]
        return lines

    def close(self) -> list[bytes]:
        """What is left without a line end."""
        rest, self._rest = bytes(self._rest), bytearray()
        return _pieces(rest) if rest else []


def _pieces(line: bytes) -> list[bytes]:
    return [line[i : i + MAX_LINE] for i in range(0, len(line), MAX_LINE)] or [b""]


class Tail:
    """The last lines of a rank's standard error: the evidence of its end."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque(maxlen=TAIL_LINES)

    def add(self, lines: list[bytes]) -> None:
        """Remember `lines`."""
        self._lines.extend(lines)

    def cause(self) -> str:
        """What ended the program: the last line of its traceback, or of its standard error."""
        return root_cause([line.decode(errors="replace") for line in self._lines])


_TORCH_PREFIX: Final = re.compile(r"^\[rank\d+\]:[ ]?")
_RAISED: Final = re.compile(r"^[A-Za-z_][\w.]*(:|$)")


def root_cause(lines: list[str]) -> str:
    """The line that says what went wrong, secrets removed; empty when there is none.

    torch prefixes tracebacks with ``[rank0]:`` and prints warnings after them.
    """
    clean = [_TORCH_PREFIX.sub("", line).rstrip() for line in lines]
    found = _raised_after_traceback(clean) or next((line for line in reversed(clean) if line.strip()), "")
    return mask(found.strip())[:1024]


def _raised_after_traceback(lines: list[str]) -> str:
    starts = [i for i, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    if not starts:
        return ""
    after = lines[starts[-1] + 1 :]
    return next((line for line in after if _RAISED.match(line)), "")


_SECRETS: Final = (
    (re.compile(r"eyJ[\w-]{5,}\.[\w-]{5,}\.[\w-]*"), "***"),
    (re.compile(r"(://[^/\s:@]*:)[^/\s@]+@"), r"\1***@"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w+/=.~-]{6,}"), r"\1 ***"),
    (
        re.compile(
            r"(?i)((?:token|secret|passw(?:or)?d|api[_-]?key|access[_-]?key|private[_-]?key|credentials?)"
            r"[\w-]*[\"']?\s*[:=]\s*[\"']?)(?!\*\*\*)[^\s\"',;&]+"
        ),
        r"\1***",
    ),
    (re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"), "***"),
    (re.compile(r"\b(?:gh[pousr]_|github_pat_|glpat-|hf_|sk-|xox[abp]-)[\w-]{16,}"), "***"),
    (re.compile(r"\b[0-9a-f]{40}\b"), "***"),
)


def mask(text: str) -> str:
    """`text` with what looks like a secret replaced by ``***``."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text
