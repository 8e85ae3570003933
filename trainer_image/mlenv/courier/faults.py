"""What can go wrong on the way to the store, and how long to wait then. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

FIRST_SECONDS: Final = 2.0
MOST_SECONDS: Final = 300.0
"""The longest wait after a fault that may pass."""
HUMAN_SECONDS: Final = 120.0
"""The wait after one that a person must mend: short, so that a mended key is noticed soon."""
BUSY_SECONDS: Final = 60.0
"""The shortest wait after a 429: the client heeds what it asked for, and does not tell it."""
HURRIED_SECONDS: Final = 10.0
"""The longest wait while ranks wait, and once the pod ends: what is not carried in its grace may be lost."""


class Kind(StrEnum):
    """What went wrong; the values are reasons in the job's status."""

    KEY = "StoreUnauthorized"
    NO_KEY = "StoreKeyMissing"
    FORBIDDEN = "StoreForbidden"
    MISSING = "StoreNotFound"
    BUSY = "StoreRateLimited"
    BROKEN = "StoreFailing"
    AWAY = "StoreUnreachable"
    SLOW = "StoreTimeout"
    LOCAL = "CheckpointUnreadable"
    OTHER = "UploadFailed"


FINAL: Final = frozenset({Kind.MISSING, Kind.FORBIDDEN, Kind.OTHER})
"""What asking once more would not change."""
HUMAN: Final = frozenset({Kind.KEY, Kind.NO_KEY, Kind.FORBIDDEN, Kind.MISSING})
WORDS: Final = 240
"""Of an error: the client says things three times over, and a status has 400 characters, advice included."""
ADVICE: Final = {
    Kind.KEY: "the API key is not accepted: put a valid one into the Secret of spec.tracking.wandb",
    Kind.NO_KEY: "create it, or correct spec.tracking.wandb; it is noticed in minutes, without a restart",
    Kind.FORBIDDEN: "the API key's owner may not write there: check entity and project, and its rights",
    Kind.MISSING: "there is no such entity, project or artifact: check spec.tracking.wandb",
    Kind.BUSY: "too many requests: it is tried again later",
    Kind.BROKEN: "the server fails: it is tried again",
    Kind.AWAY: "the server cannot be reached: check baseURL, proxy, certificates and NetworkPolicies",
    Kind.SLOW: "it took too long, and is begun again",
    Kind.LOCAL: "the spool cannot be read or written, or its files are not what was sealed",
    Kind.OTHER: "it is tried again",
}
_STATUS: Final = re.compile(r"(?:(?:HTTP|error|http_status:|status)[ :]+|Response \[)(\d{3})\b")
_AFTER: Final = re.compile(r"[Rr]etry-[Aa]fter\D{0,4}(\d{1,6})")
_AWAY: Final = ("connection refused", "no such host", "timeout", "timed out", "EOF", "connection reset",
                "certificate", "network is unreachable", "no route to host", "broken pipe",
                "connection broken", "connection aborted", "incompleteread",
                "max retries exceeded")  # fmt: skip
_DISK: Final = ("no space left on device", "read-only file system", "disk quota exceeded")
_SAID: Final = {
    Kind.FORBIDDEN: re.compile(r"(?<!\] )permission denied"),
    Kind.MISSING: re.compile(r"no user or team|(?:entity|team|project) \S+ not found|project not found"),
}
"""What a server says of a refusal whose status the client keeps to itself, as it does when a run begins."""
_BY_STATUS: Final = {401: Kind.KEY, 403: Kind.FORBIDDEN, 404: Kind.MISSING, 429: Kind.BUSY}


@dataclass(frozen=True, slots=True)
class Fault:
    """One failure, for people and for the next try."""

    kind: Kind
    text: str
    after: float = 0.0
    """Seconds that the server asked to wait."""

    @property
    def sentence(self) -> str:
        """What happened, and what to do."""
        text = self.text if len(self.text) <= WORDS else f"{self.text[:WORDS]}…"
        return f"{text.rstrip('.')} ({ADVICE[self.kind]})"


def classify(text: str) -> Fault:
    """The fault in an error's text: the client tells statuses in words only."""
    short = " ".join(text.split())[:400]
    found = _STATUS.findall(text)
    after = _AFTER.search(text)
    return Fault(_kind(int(found[-1]) if found else 0, text), short, float(after[1]) if after else 0.0)


def _kind(status: int, text: str) -> Kind:
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status >= 500:
        return Kind.BROKEN
    low = text.lower()
    if any(word in low for word in _DISK):
        return Kind.LOCAL
    if any(word.lower() in low for word in _AWAY):
        return Kind.AWAY
    said = next((kind for kind, words in _SAID.items() if words.search(low)), None)
    if said is not None:
        return said
    # What the server says of the key comes without a status; where nobody answered, tries are counted.
    refused = "verify credentials" in text and "attempt(s)" not in text
    return Kind.KEY if refused else Kind.OTHER


def delay(fault: Fault, failures: int, jitter: float) -> float:
    """Seconds until the next try, after so many failures in a row (at least 1); `jitter`: 0 to 1.

    Never sooner than the server asked for, were it an hour.
    """
    most = HUMAN_SECONDS if fault.kind in HUMAN else MOST_SECONDS
    wait = min(most, FIRST_SECONDS * 2.0 ** min(failures - 1, 16))
    least = BUSY_SECONDS if fault.kind is Kind.BUSY else 0.0
    return max(fault.after, least, wait * (0.5 + 0.5 * jitter))


def hurried(fault: Fault, wait: float) -> float:
    """That wait where there is no time for it; what the server asked for is obeyed all the same."""
    most = BUSY_SECONDS if fault.kind is Kind.BUSY else HURRIED_SECONDS
    return max(fault.after, min(wait, most))
