"""A trace: what happened, one fact a line of JSON. Facts may come in any order and more than once.

Lines are ``{"fact": <kind>, ...fields}`` with the kinds of KINDS, below.
``settled`` names a node about which everything has been said: a long trace is read without keeping it. The
attributions of its pods must have come before, also when they came for another node.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SECOND = 1_000_000
HOUR = 3600 * SECOND
Pairs: TypeAlias = tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Owner:
    """To whom a cost belongs."""

    namespace: str = ""
    job: str = ""
    job_uid: str = ""
    team: str = ""
    model: str = ""
    use_case: str = ""
    user: str = ""
    queue: str = ""
    labels: tuple[tuple[str, str], ...] = ()

    def pairs(self) -> Pairs:
        """(field, value) of every field, in their order here: as it stands in the key of a row."""
        return tuple((name, getattr(self, name)) for name in _OWNER_FIELDS)


_OWNER_FIELDS = Owner.__slots__


@dataclass(frozen=True, slots=True)
class Price:
    id: str
    provider: str
    instance_type: str
    capacity_type: str
    since: int
    until: int | None
    list_nanos: int
    effective_nanos: int
    region: str = ""
    zone: str = ""
    reservation: str = ""
    priority: int = 0
    as_of: int = 0


@dataclass(frozen=True, slots=True)
class Node:
    uid: str
    name: str
    provider: str
    region: str
    zone: str
    instance_type: str
    capacity_type: str
    reservation: str = ""
    gpus: int = 0
    gpu_model: str = ""
    cpu_milli: int = 0
    memory_bytes: int = 0
    created: int = 0
    deleted: int | None = None


@dataclass(frozen=True, slots=True)
class NodeMark:
    node_uid: str
    at: int
    use: str | None


@dataclass(frozen=True, slots=True)
class Pod:
    uid: str
    namespace: str
    name: str
    job_uid: str
    node_uid: str
    gpus: int = 0
    cpu_milli: int = 0
    memory_bytes: int = 0
    scheduled: int = 0
    started: int | None = None
    finished: int | None = None
    released: int | None = None
    telemetry: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    pod_uid: str
    at: int
    sequence: int
    attempt: int
    category: str


@dataclass(frozen=True, slots=True)
class Attributed:
    job_uid: str
    since: int
    to: Owner


@dataclass(frozen=True, slots=True)
class Settled:
    node_uid: str


Told = TypeVar("Told", Pod, Node)
Fact: TypeAlias = Price | Node | NodeMark | Pod | Mark | Attributed | Settled

KINDS: dict[str, type[Any]] = {
    "price": Price,
    "node": Node,
    "node_mark": NodeMark,
    "pod": Pod,
    "mark": Mark,
    "attributed": Attributed,
    "settled": Settled,
}
_NAMES = {kind: name for name, kind in KINDS.items()}


def to_line(fact: Fact) -> str:
    return json.dumps({"fact": _NAMES[type(fact)], **asdict(fact)}, separators=(",", ":"))


def from_line(line: str) -> Fact:
    fields = json.loads(line)
    kind = KINDS[fields.pop("fact")]
    if kind is Attributed:
        owner = fields["to"]
        labels = tuple((key, value) for key, value in owner["labels"])
        fields["to"] = Owner(**{**owner, "labels": labels})
    fact: Fact = kind(**fields)
    return fact


def read(lines: Iterable[str]) -> Iterator[Fact]:
    return (from_line(line) for line in lines if line.strip())


TIMES = ("scheduled", "started", "finished", "released", "created", "deleted")


def merged(old: Told, new: Told) -> Told:
    """What both say of one pod or node. Of times the earlier, of anything else the larger."""
    changes = {}
    for field in fields(old):
        mine, other = getattr(old, field.name), getattr(new, field.name)
        if field.name not in TIMES:
            changes[field.name] = max(mine, other)
        elif other and not (mine and mine < other):  # neither None nor 0 tells anything
            changes[field.name] = other
    return replace(old, **changes)
