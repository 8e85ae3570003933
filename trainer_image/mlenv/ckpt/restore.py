"""Finds the newest checkpoint that is whole and fits, with all ranks agreeing on one, and puts it back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlenv.ckpt import candidates, durable, exchange, listing, load, verify
from mlenv.ckpt.errors import CheckpointError, ListingFailed, NoneSane, NothingToResume, TogetherFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mlenv.ckpt.candidates import Candidate, Refusal
    from mlenv.ckpt.group import Groups
    from mlenv.ckpt.seal import Seal


@dataclass(frozen=True, slots=True)
class Start:
    """Where training begins."""

    step: int = 0
    """Optimizer steps that are done."""
    samples: int = 0
    epoch: int = 0
    digest: str | None = None
    """Identity of the checkpoint; None: a fresh start."""
    seal: Seal | None = None
    passed: tuple[Refusal, ...] = ()
    """Newer checkpoints that were passed over, with reasons."""
    same_world: bool = True


@dataclass(frozen=True, slots=True)
class Restored:
    """A start, and what is needed to finish it."""

    start: Start
    newest_attempt: int
    loader: load.Loader | None


class Restore:
    """One search for the past. Every rank takes part in every step."""

    def __init__(
        self,
        groups: Groups,
        living: Mapping[str, Any],
        job: str,
        tell: Callable[[str], None],
        *,
        ignored: frozenset[str] | None = frozenset(),
    ) -> None:
        self._place = groups.place
        self._control = groups.control
        self._living = living
        self._job = job
        self._tell = tell
        self._ignored = ignored

    def run(
        self,
        *,
        past: bool,
        since: int,
        ceiling: int | None,
        only: str | None,
        finite: bool,
        afresh: bool = False,
    ) -> Restored:
        """Raises ListingFailed, NothingToResume and other CheckpointErrors.

        `afresh` starts at step 0 where all that there are were found not sane, instead of raising NoneSane.
        """
        listings = self._list()
        newest = max((one.attempt for listed in listings for one in listed), default=0)
        choice = candidates.choose(
            listings, job=self._job, since=since, ceiling=ceiling, only=only, finite=finite
        )
        if choice.empty and not past:
            self._tell(f"no checkpoint in {self._place.folder}: a fresh start at step 0")
            return Restored(Start(), newest, None)
        if choice.doubted and not past:
            if not afresh:
                raise NoneSane(self._none_sane(choice.refusals))
            return Restored(Start(passed=tuple(choice.refusals)), newest, None)
        passed = list(choice.refusals)
        for candidate in choice.candidates:
            try:
                loader = self.take(candidate)
            except TogetherFailed as error:
                passed.append(candidates.Refusal(candidate.seal.folder, str(error)))
                self._tell(f"{candidate.seal.folder} is passed over: {error}")
            else:
                return Restored(self._start(candidate, passed, loader), newest, loader)
        raise NothingToResume(self._nothing(passed))

    def _list(self) -> Sequence[Sequence[listing.Found]]:
        place = self._place
        try:
            found = self._control.together(
                "listing", lambda: listing.read(place.folder) if place.leads else []
            )
        except TogetherFailed as error:
            raise ListingFailed(str(error)) from None
        return [found[rank] for rank in place.leaders]

    def _start(self, candidate: Candidate, passed: list[Refusal], loader: load.Loader) -> Start:
        whole = candidate.seal
        newer = tuple(one for one in passed if one.name > whole.folder)
        other = "" if loader.same_world else f", written by {whole.world.size} rank(s)"
        self._tell(f"going on from {whole.folder} at step {whole.step}{other} ({candidate.digest[:12]})")
        return Start(
            whole.step, whole.samples, whole.epoch, candidate.digest, whole, newer, loader.same_world
        )

    def _none_sane(self, passed: Sequence[Refusal]) -> str:
        reasons = "; ".join(f"{one.name}: {one.why}" for one in passed)
        return (
            f"none of the {len(passed)} checkpoint(s) in {self._place.folder} is sane, and they are kept for "
            f"people to look at: {reasons}"
        )

    def _nothing(self, passed: Sequence[Refusal]) -> str:
        if not passed:
            return (
                f"there was a checkpoint of this job, and {self._place.folder} has none: it is another "
                "folder, or was emptied. Nothing is started afresh over a past"
            )
        reasons = "; ".join(f"{one.name}: {one.why}" for one in passed)
        return (
            f"none of the {len(passed)} checkpoint(s) in {self._place.folder} can be used, and nothing is "
            f"started afresh over a past: {reasons}. Repair or remove them, or name another folder"
        )

    # -- one candidate

    def take(self, candidate: Candidate) -> load.Loader:
        """Verify, bring and load it. Raises TogetherFailed on all ranks when any of them cannot use it."""
        place, whole = self._place, candidate.seal
        self._control.together("naming", lambda: self._finish(candidate))
        reports = self._control.together("verifying", lambda: self._verify(whole))
        good, bad = self._judge(reports)
        nodes = place.nodes if place.per_node else (tuple(range(place.world)),)
        assembly = candidates.assemble(whole, good, nodes)
        self._control.together("assembling", lambda: _complete(assembly, bad))
        if place.per_node:
            exchange.bring(place, self._control, candidate, assembly.moves)
        mine = place.node if place.per_node else 0
        kept: list[load.Loader] = []
        self._control.together("loading", lambda: kept.append(self._load(whole, assembly.copies[mine])))
        self._check(whole, kept[0])
        return kept[0]

    def _finish(self, candidate: Candidate) -> None:
        """A folder that was cut off just before it named the checkpoint does so now: others have."""
        place, whole = self._place, candidate.seal
        if place.leads and place.leaders.index(place.rank) in candidate.unfinished:
            durable.rename(place.tmp(whole.step, whole.attempt), place.path(whole.step, whole.attempt))

    def _verify(self, whole: Seal) -> dict[str, str]:
        """This rank's share of the files that its folder should have."""
        team = self._place.team
        own = whole.parts[team.index(self._place.rank) :: len(team)]
        return verify.verify(self._place.path(whole.step, whole.attempt), own, self._place.rank)

    def _judge(self, reports: Sequence[dict[str, str]]) -> tuple[list[frozenset[str]], dict[str, str]]:
        """The files that each folder has, and what is wrong with others."""
        place = self._place
        teams = place.nodes if place.per_node else (tuple(range(place.world)),)
        good = [
            frozenset(uri for rank in team for uri, why in reports[rank].items() if not why) for team in teams
        ]
        words: dict[str, str] = {}
        for report in reports:
            for uri, why in report.items():
                if why and (uri not in words or words[uri].endswith("is missing")):
                    words[uri] = why
        return good, words

    def _load(self, whole: Seal, copy: int) -> load.Loader:
        place = self._place
        folder = place.path(whole.step, whole.attempt)
        loader = load.Loader(
            folder, whole, self._living, copy=copy, rank=place.rank, world=place.world, ignored=self._ignored
        )
        loader.run()
        return loader

    def _check(self, whole: Seal, loader: load.Loader) -> None:
        """What arrived, against what was sealed."""
        shares = self._control.together("comparing", loader.shares)
        wrong = load.compare(whole, shares, loader.sharded())

        def judge() -> None:
            if wrong:
                raise CheckpointError("; ".join(wrong[: load.SHOWN]))

        self._control.together("comparing", judge)


def _complete(assembly: candidates.Assembly, bad: Mapping[str, str]) -> None:
    if assembly.missing:
        words = [bad.get(uri) or f"{uri} is missing everywhere" for uri in assembly.missing]
        raise CheckpointError("; ".join(words[: load.SHOWN]))
