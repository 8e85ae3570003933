"""What is in the spool and what the store has; hence what to do next. Pure.

A checkpoint is *sealed* in the spool, *committed* once the store has a version of it, and *verified* once
every byte of that was read back; that is written into the version's own metadata, so a courier that is
killed anywhere loses nothing but time. Nothing counts as stored before it is verified.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from mlenv.ckpt import retain
from mlenv.courier import naming

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from collections.abc import Set as AbstractSet
    from datetime import datetime

    from mlenv.ckpt.seal import Part, Seal

KEEP: Final = retain.Policy(newest=3, hours=24, best=False)
"""What stays in the store; and the best, where the program says which that is."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which checkpoint."""

    step: int
    attempt: int
    digest: str

    @property
    def order(self) -> tuple[int, int]:
        """Newer is more."""
        return (self.step, self.attempt)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A checkpoint in the spool."""

    name: str
    which: Identity
    size: int
    time: datetime
    good: bool
    nodes: frozenset[int]
    """Other nodes whose files belong to it."""
    metrics: Mapping[str, float | str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Version:
    """A committed version in the store."""

    name: str
    """``collection:v7``."""
    which: Identity
    node: int
    """Whose part; 0: the head."""
    verified: bool
    size: int
    time: datetime
    good: bool
    url: str = ""
    parts: tuple[tuple[int, str], ...] = ()
    """Of a head: (node, version) of what others carried."""
    expires: bool = False
    sane: bool = True
    """Whether no armed check speaks against it."""
    metrics: Mapping[str, float | str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Upload:
    """Carry this checkpoint, or this node's part of it."""

    sealed: Sealed
    parts: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Check:
    """Read this version back."""

    version: Version


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete this version: it is of this attempt, and nobody wants it any more."""

    version: Version


@dataclass(frozen=True, slots=True)
class Expire:
    """Have this version of an older attempt expire: it is not ours to delete."""

    version: Version


@dataclass(frozen=True, slots=True)
class Await:
    """Parts that other couriers have not carried yet."""

    sealed: Sealed
    nodes: tuple[int, ...]


Action = Upload | Check | Delete | Expire | Await


def clears(action: Action) -> str:
    """The version that an action is to rid the store of; empty: none."""
    return action.version.name if isinstance(action, Delete | Expire) else ""


def needed(whole: Seal) -> tuple[Part, ...]:
    """The files that a store must have: one copy of what all ranks have alike is enough there."""
    return tuple(one for one in whole.parts if one.kind != "replica" or one.uri.startswith("replica-0/"))


def own(whole: Seal, node: int) -> tuple[Part, ...]:
    """Those of them that node `node` carries; node 0 carries also what every node has."""
    return tuple(one for one in needed(whole) if one.node == node or (one.node is None and node == 0))


def living(found: Iterable[Identity]) -> frozenset[Identity]:
    """Without what a roll back left behind: what older attempts have beyond the newest attempt's steps."""
    listed = list(found)
    newest = max((one.attempt for one in listed), default=0)
    reach = max((one.step for one in listed if one.attempt == newest), default=0)
    return frozenset(one for one in listed if one.attempt == newest or one.step <= reach)


def decide(
    node: int,
    sealed: Sequence[Sealed],
    heads: Sequence[Version],
    parts: Sequence[Version],
    metric: str = "",
) -> list[Action]:
    """What to do, the first first. `heads` and `parts` are those of all nodes; `metric` says what is best."""
    mine = [one for one in (heads if node == 0 else parts) if one.node == node]
    stored = {one.which for one in mine}
    alive = living({one.which for one in sealed} | stored)
    here = {one.which for one in sealed}
    actions: list[Action] = [
        Check(one) for one in _newest(mine) if not one.verified and one.which in alive & here
    ]
    surplus = _surplus(sealed, mine, alive, metric)
    for one in sorted(sealed, key=lambda one: one.which.order, reverse=True):
        carries = node == 0 or node in one.nodes
        if carries and one.which in alive - stored and one.which not in surplus:
            actions.append(_upload(node, one, parts))
    # A part goes with its head, by whoever deletes that: a head without its parts is nothing.
    bound = frozenset(one.which for one in heads if not one.expires) if node else frozenset[Identity]()
    return actions + _thin([one for one in mine if one.which not in bound], heads, surplus, here)


def _newest(listed: Iterable[Version]) -> list[Version]:
    return sorted(listed, key=lambda one: one.which.order, reverse=True)


def _upload(node: int, one: Sealed, parts: Sequence[Version]) -> Action:
    if node != 0:
        return Upload(one)
    by_node = {part.node: part.name for part in parts if part.which == one.which and part.verified}
    missing = tuple(sorted(one.nodes - by_node.keys()))
    if missing:
        return Await(one, missing)
    return Upload(one, tuple(sorted((number, by_node[number]) for number in one.nodes)))


def _surplus(
    sealed: Sequence[Sealed], mine: Sequence[Version], alive: frozenset[Identity], metric: str
) -> frozenset[Identity]:
    """What retention does not want in the store: of all that is there, or could be."""
    both: list[Sealed | Version] = [*sealed, *mine]
    known = {one.which: one for one in both if one.which in alive}
    kept = [
        retain.Kept(
            name=which.digest,
            digest=which.digest,
            step=which.step,
            attempt=which.attempt,
            size=one.size,
            time=one.time,
            good=one.good,
            score=retain.score(one.metrics, metric) if one.good else None,
        )
        for which, one in known.items()
    ]
    gone = set(retain.plan(kept, replace(KEEP, best=bool(metric))).delete)
    return frozenset(which for which in known if which.digest in gone)


def _thin(
    mine: Sequence[Version],
    heads: Sequence[Version],
    surplus: frozenset[Identity],
    here: AbstractSet[Identity],
) -> list[Action]:
    """Only once a newer head is verified; the last attempt in the spool is ours, no other is."""
    attempt = max((one.attempt for one in here), default=0)
    sure = [one.which.step for one in heads if one.verified and one.which.attempt == attempt]
    reach = max(sure, default=-1)
    actions: list[Action] = []
    for one in _newest(mine):
        if one.which in surplus and one.which.step < reach:
            if one.which.attempt == attempt:
                actions.append(Delete(one))
            elif one.which.attempt < attempt and not one.expires:
                actions.append(Expire(one))
    return actions


def honours(version: Version, heads: Sequence[Version]) -> tuple[str, ...]:
    """The aliases that this version gets once it is verified: it may be the newest sane one by then."""
    same = [one for one in heads if one.which.attempt == version.which.attempt and one.which != version.which]
    newer = [one for one in same if one.verified and one.good and one.which.step > version.which.step]
    return (naming.sane(version.which.attempt),) if version.good and not newer else ()


def uploaded(heads: Sequence[Version], sealed: Sequence[Sealed]) -> Version | None:
    """The newest checkpoint that the store surely has, and that may be gone on from."""
    alive = living({one.which for one in heads} | {one.which for one in sealed})
    return next((one for one in _newest(heads) if one.verified and one.sane and one.which in alive), None)
