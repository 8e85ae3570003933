"""How checkpoints are called in the store. Pure.

A job has one collection of heads, and one of parts where every node has a spool of its own. What a version
is stands in its metadata; aliases are views for people, and each carries the attempt, so that none of an
older attempt moves one of a newer.
"""

from __future__ import annotations

import re
from typing import Final

TYPE: Final = "checkpoint"
PART_TYPE: Final = "checkpoint-part"
_OTHER: Final = re.compile(r"[^A-Za-z0-9_.-]+")


def collection(job: str, uid: str) -> str:
    """``ranker-<uid>-ckpt``: readable, and of this job alone, also when its name is used again."""
    return f"{_OTHER.sub('-', job)[:60]}-{_OTHER.sub('-', uid)[:50]}-ckpt"


def parts(head: str) -> str:
    """The collection of the parts whose heads are in `head`."""
    return f"{head}.parts"


def aliases(name: str, attempt: int, node: int | None) -> tuple[str, ...]:
    """Of the checkpoint in folder `name`; of one node's part of it, where `node` says which."""
    tail = "" if node is None else f".node-{node}"
    return (f"{name}{tail}", f"attempt-{attempt}{tail}")


def sane(attempt: int) -> str:
    """The alias of the newest sane checkpoint of one attempt: no other attempt's moves it."""
    return f"sane-a{attempt}"


def run(uid: str, node: int) -> str:
    """The id of the run that logs them: node 0 is the only one that writes the job's own."""
    return uid if node == 0 else f"{uid}-node-{node}"
