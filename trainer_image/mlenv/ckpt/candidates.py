"""Which checkpoints a gang could go on from, in which order, and what must be brought where. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from mlenv.ckpt import names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mlenv.ckpt.listing import Found
    from mlenv.ckpt.seal import Part, Seal


@dataclass(frozen=True, slots=True)
class Refusal:
    """A checkpoint that is passed over, and why."""

    name: str
    why: str
    doubted: bool = False
    """Nothing else speaks against it than an armed check."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A checkpoint that some folder has the seal of."""

    digest: str
    seal: Seal
    holders: frozenset[int]
    """Folders, by number, that have it under its name."""
    unfinished: frozenset[int]
    """Folders that were cut off just before they named it; the name is theirs to give now."""


@dataclass(slots=True)
class Choice:
    """What there is to try, the newest first, and what is passed over before anything is read."""

    candidates: list[Candidate] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether there is no past at all: only then may training start afresh."""
        return not self.candidates and not self.refusals

    @property
    def doubted(self) -> bool:
        """Whether there is a past, and all of it was found not sane."""
        return bool(self.refusals) and not self.candidates and all(one.doubted for one in self.refusals)


@dataclass(frozen=True, slots=True)
class Move:
    """One file that some folders lack, and the folder that has it."""

    uri: str
    size: int
    source: int
    targets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Assembly:
    """How the gang comes to have one checkpoint; it cannot when something is missing."""

    moves: tuple[Move, ...]
    missing: tuple[str, ...]
    copies: tuple[int, ...]
    """For each folder, which copy of what all have alike is read there."""


def choose(
    listings: Sequence[Sequence[Found]],
    *,
    job: str,
    since: int = 1,
    ceiling: int | None = None,
    only: str | None = None,
    finite: bool = False,
) -> Choice:
    """Order what all folders list: by step, then attempt, the newest first.

    What attempts before `since` saved is not looked at, as if it were not there. `ceiling` is a step that
    nothing newer may be used than (0 is back to the beginning: then nothing is, and training starts anew);
    `only` the digest of the one that may be used. `finite` refuses those that were made although they hold
    NaN or infinities, or failed an armed check.
    """
    choice = Choice()
    against = partial(_against, job=job, ceiling=ceiling, only=only, finite=finite)
    known: dict[str, list[tuple[int, Found]]] = {}
    for number, listing in enumerate(listings):
        for found in listing:
            if found.attempt < since or ceiling == 0:
                continue
            if found.seal is None:
                if found.finished:
                    choice.refusals.append(Refusal(found.name, found.refusal))
            else:
                known.setdefault(found.digest, []).append((number, found))
    for digest, places in known.items():
        _sort_in(choice, digest, places, against, finite=finite)
    choice.candidates.sort(key=lambda one: (one.seal.step, one.seal.attempt, one.digest), reverse=True)
    return choice


def _sort_in(
    choice: Choice,
    digest: str,
    places: list[tuple[int, Found]],
    against: Callable[[Seal, str], str],
    *,
    finite: bool,
) -> None:
    finished = frozenset(number for number, found in places if found.finished)
    if not finished:
        return  # sealed nowhere: the save was cut off before it counted
    whole = places[0][1].seal
    assert whole is not None
    why = against(whole, digest)
    if why:
        choice.refusals.append(Refusal(whole.folder, why))
    elif finite and whole.insane:
        doubt = f'it is not sane, which only nonfinite="allow" goes on from: {whole.insane[0]}'
        choice.refusals.append(Refusal(whole.folder, doubt, doubted=True))
    else:
        unfinished = frozenset(number for number, _ in places) - finished
        choice.candidates.append(Candidate(digest, whole, finished, unfinished))


def _against(
    whole: Seal, digest: str, *, job: str, ceiling: int | None, only: str | None, finite: bool
) -> str:
    if job and whole.job and whole.job != job:
        return f"it belongs to another job ({whole.job})"
    if ceiling is not None and whole.step > ceiling:
        return f"it is newer than step {ceiling}, to which the run was rolled back"
    if only is not None and digest != only:
        return f"the job's record names another one ({only[:12]})"
    if finite and whole.nonfinite:
        return f'it is not finite, which only nonfinite="allow" goes on from: {whole.nonfinite}'
    return ""


def assemble(whole: Seal, good: Sequence[frozenset[str]], nodes: Sequence[Sequence[int]]) -> Assembly:
    """What to bring where, when each folder has verified the files in `good`; `nodes`: ranks by folder.

    Shards stay where they are when the world is as it was and each folder has those of its own ranks.
    """
    copies, needs, missing = [], [], []
    for number, ranks in enumerate(nodes):
        copy = _copy(whole.parts, good, number)
        copies.append(copy if copy is not None else 0)
        if copy is None:
            missing.append("a whole copy of what all ranks have alike")
        needs.append(_needed(whole, copies[-1], ranks, in_place=_in_place(whole, good, nodes)))
    moves = []
    for part in whole.parts:
        targets = tuple(n for n, need in enumerate(needs) if part.uri in need and part.uri not in good[n])
        source = next((n for n, have in enumerate(good) if part.uri in have), None)
        if targets and source is None:
            missing.append(part.uri)
        elif targets and source is not None:
            moves.append(Move(part.uri, part.size, source, targets))
    return Assembly(tuple(moves), tuple(dict.fromkeys(missing)), tuple(copies))


def _copy(parts: Iterable[Part], good: Sequence[frozenset[str]], number: int) -> int | None:
    """The copy to read in folder `number`: one that it has whole, or else one that can be brought whole."""
    by_copy: dict[int, set[str]] = {}
    for part in parts:
        if part.kind == "replica":
            copy = int(part.uri.split("/")[0].removeprefix("replica-"))
            by_copy.setdefault(copy, set()).add(part.uri)
    anywhere = frozenset[str]().union(*good)
    whole = [copy for copy, uris in by_copy.items() if uris <= anywhere]
    if not by_copy:
        return 0
    return min(whole, key=lambda copy: (len(by_copy[copy] - good[number]), copy), default=None)


def _in_place(whole: Seal, good: Sequence[frozenset[str]], nodes: Sequence[Sequence[int]]) -> bool:
    """Whether every rank finds the shards that it wrote in its own folder, and needs no others."""
    if whole.world.size != sum(len(ranks) for ranks in nodes):
        return False
    listed = {part.uri for part in whole.parts}
    own = [{uri for uri in listed if _written_by(uri, ranks)} for ranks in nodes]
    return all(uris <= have for uris, have in zip(own, good, strict=True))


def _needed(whole: Seal, copy: int, ranks: Sequence[int], *, in_place: bool) -> set[str]:
    needed = set()
    for part in whole.parts:
        of_other_copy = part.kind == "replica" and not part.uri.startswith(names.replica(copy) + "/")
        shard = part.kind == "state" and not part.uri.endswith(names.METADATA)
        of_other_rank = shard and in_place and not _written_by(part.uri, ranks)
        if not of_other_copy and not of_other_rank:
            needed.add(part.uri)
    return needed


def _written_by(uri: str, ranks: Sequence[int]) -> bool:
    return any(uri.startswith(f"{names.SHARDS}/__{rank}_") for rank in ranks)
