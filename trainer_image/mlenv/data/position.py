"""Where a run of training is in its data, as a small dict that JSON can hold, for one rank or for all.

`batches` are consumed global batches, never those read ahead. The witness is a number for the multiset of
samples that were consumed: `sealed` is what all ranks together had when the position was last merged, `own`
what this rank consumed since. `merge` adds them up.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from mlenv.data.errors import StateRefused
from mlenv.data.mix import MASK

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FORMAT: Final = 1
MERGED: Final = -1
"""The rank of a state that speaks for all ranks."""


@dataclass(frozen=True, slots=True)
class Generation:
    """From `epoch` on the data set had the first `files` files; `digest` is theirs."""

    epoch: int
    files: int
    rows: int
    digest: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """Global batches that were passed over on purpose."""

    epoch: int
    step: int
    batches: int


@dataclass(frozen=True, slots=True)
class Position:
    """How far the data is consumed."""

    epoch: int = 0
    step: int = 0
    """Global batches of this epoch that are consumed; never all of them: then it is the next epoch's 0."""
    batches: int = 0
    """Global batches of all epochs, without skipped ones."""
    sealed: int = 0
    own: int = 0
    skipped: tuple[Skipped, ...] = ()

    def consumed(self, steps_in_epoch: int, witness: int) -> Position:
        """One batch later."""
        moved = self.moved(steps_in_epoch, 1)
        return replace(moved, batches=self.batches + 1, own=(self.own + witness) & MASK)

    def moved(self, steps_in_epoch: int, steps: int) -> Position:
        """The place `steps` later, at most at the next epoch's beginning."""
        step = self.step + steps
        at_end = step >= steps_in_epoch
        return replace(self, epoch=self.epoch + at_end, step=0 if at_end else step)


def encode(
    position: Position, order: Mapping[str, Any], generations: Iterable[Generation], *, rank: int, world: int
) -> dict[str, Any]:
    """The state of one rank."""
    return {
        "format": FORMAT,
        "order": dict(order),
        "generations": [asdict(one) for one in generations],
        "epoch": position.epoch,
        "step": position.step,
        "batches": position.batches,
        "skipped": [asdict(one) for one in position.skipped],
        "witness": {"sealed": position.sealed, "own": position.own},
        "rank": rank,
        "world": world,
    }


def decode(state: Mapping[str, Any], *, rank: int, world: int) -> Position:
    """The position in a state. Raises StateRefused for one of another format or another rank."""
    if state.get("format") != FORMAT:
        raise StateRefused(
            f"the data's state has format {state.get('format')!r}, and this version reads {FORMAT}: "
            "use the version of mlenv that wrote it"
        )
    if state["rank"] != MERGED and (state["rank"], state["world"]) != (rank, world):
        raise StateRefused(
            f"this is the state of rank {state['rank']} of {state['world']}, not of {rank} of {world}: "
            "load what mlenv.data.merge makes of the states of all ranks; any world takes that"
        )
    return Position(
        epoch=state["epoch"],
        step=state["step"],
        batches=state["batches"],
        sealed=state["witness"]["sealed"],
        own=state["witness"]["own"],
        skipped=tuple(Skipped(**one) for one in state["skipped"]),
    )


def merge(states: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The state of all ranks out of each rank's own; what a checkpoint keeps, and any world loads.

    Raises StateRefused unless they are the states of every rank of one world at one position.
    """
    every = sorted(states, key=lambda state: int(state["rank"]))
    if len(every) == 1 and every[0]["rank"] == MERGED:
        return dict(every[0])
    ranks = [state["rank"] for state in every]
    if not every or ranks != list(range(every[0]["world"])):
        raise StateRefused(
            f"merging needs the state of every rank of a world once, and got those of ranks {ranks}"
        )
    apart = sorted({key for state in every for key in state if _public(state, key) != _public(every[0], key)})
    if apart:
        raise StateRefused(
            f"the ranks' states differ in {', '.join(apart)}: take them all at the same commit"
        )
    own = sum(state["witness"]["own"] for state in every)
    witness = {"sealed": (every[0]["witness"]["sealed"] + own) & MASK, "own": 0}
    return {**every[0], "witness": witness, "rank": MERGED, "world": 0}


def _public(state: Mapping[str, Any], key: str) -> Any:
    """What must be the same on all ranks."""
    if key == "rank":
        return None
    return state[key]["sealed"] if key == "witness" else state.get(key)


def differences(sealed: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """`batch=4096, not 8192` for each setting that is not as the state has it."""
    return [
        f"{key}={sealed.get(key)!r}, not {given[key]!r}" for key in given if sealed.get(key) != given[key]
    ]
