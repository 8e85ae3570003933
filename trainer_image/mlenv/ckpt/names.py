"""How the files of a checkpoint are called, and which names may be followed. Pure."""

from __future__ import annotations

import re
from typing import Final

SEAL: Final = "SEAL.json"
PART: Final = "PART.json"
STATE: Final = "state.json"
OWNER: Final = "OWNER"
"""Beside the checkpoints: the uid of the job that writes there."""
SHARDS: Final = "shards"
METADATA: Final = ".metadata"
TMP: Final = ".tmp"
GONE: Final = ".gone"
MAX_URI: Final = 240
MAX_DEPTH: Final = 8

_SEALED: Final = re.compile(r"step-(\d{12})\.a(\d{1,9})")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9._-]{1,120}")


def folder(step: int, attempt: int) -> str:
    """``step-000000001200.a3``: sorted by name is sorted by step."""
    return f"step-{step:012d}.a{attempt}"


def parse_folder(name: str) -> tuple[int, int] | None:
    """(step, attempt) of a sealed folder's name; None for any other name."""
    found = _SEALED.fullmatch(name)
    return (int(found[1]), int(found[2])) if found else None


def is_litter(name: str, attempt: int) -> bool:
    """Whether this is what a save or a deletion of `attempt` or an older one left when it was cut off.

    What a newer attempt is writing is not ours to clear: then we are what should be gone.
    """
    if not name.endswith(TMP):
        return False
    numbers = parse_folder(name.removesuffix(TMP).removesuffix(GONE))
    return numbers is not None and numbers[1] <= attempt


def replica(number: int) -> str:
    """The folder of one whole copy of what all ranks have alike."""
    return f"replica-{number}"


def fault_in_uri(uri: str) -> str | None:
    """Why a relative path must not be followed; None when it may."""
    segments = uri.split("/")
    if not uri or len(uri) > MAX_URI or len(segments) > MAX_DEPTH:
        return "is empty, too long or too deep"
    if any(one in ("", ".", "..") for one in segments):
        return "leads out of the checkpoint's folder, or is not in its plain form"
    if not all(_SEGMENT.fullmatch(one) for one in segments):
        return "holds characters that no checkpoint uses"
    return None
