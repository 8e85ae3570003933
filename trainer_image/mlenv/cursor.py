"""Where a loop is in its data, as a thing that a checkpoint holds.

Three kinds of data: with a position (a Stream), from which any world goes on; with a ``state_dict`` of its
own; and plain iterables, whose batches are counted, and passed over again after a restart.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

from mlenv import state
from mlenv.ckpt import durable, plain, rng
from mlenv.ckpt.errors import Incompatible
from mlenv.ckpt.seal import Witness
from mlenv.data.position import merge

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

POSITION: Final = "a position"
OWN: Final = "a state of its own"
COUNT: Final = "a count of batches"


class Cursor:
    """How much of `data` is consumed, by a rank of a world of `world`."""

    def __init__(self, data: Any, world: int) -> None:
        self._data = data
        self._world = world
        self._how = _how(data)
        self.witness: Witness | None = None
        """Which samples all ranks consumed, as of the last `settle`; None where the data does not know."""
        self._settled: Any = None
        self._given = self._consumed = 0
        self._generators: Any = None
        self._resumed = False

    # -- the loop

    @property
    def resumed(self) -> bool:
        """Whether the next pass is the rest of one, of which nothing may be left."""
        return self._resumed

    def batches(self) -> Iterator[Any]:
        """One pass over the data; after a restart, the rest of the one that was cut off."""
        for batch in self._rest() if self._resumed else self._whole():
            self._given += 1
            yield batch

    def commit(self) -> None:
        """What was given until now is consumed."""
        self._consumed = self._given

    def _whole(self) -> Iterator[Any]:
        self._given = 0
        if self._how == COUNT:
            # A DataLoader draws its order from these when a pass begins.
            self._generators = rng.capture()
        return iter(self._data)

    def _rest(self) -> Iterator[Any]:
        """Whatever this draws from the generators, the undisturbed run drew before: they stay as they are."""
        self._resumed = False
        now = rng.capture()
        if self._generators is not None:
            rng.restore(self._generators)
        batches: Iterator[Any] = iter(self._data)
        for _ in itertools.islice(batches, self._given):
            pass
        rng.restore(now)
        return batches

    # -- checkpoints

    def share(self) -> Any:
        """What the other ranks must know of this one's data before a checkpoint is taken."""
        if self._how == POSITION:
            return self._data.state_dict()
        return _digest(self._data.state_dict()) if self._how == OWN else None

    def settle(self, shares: Sequence[Any]) -> None:
        """Take the `share` of every rank, by rank."""
        if self._how == POSITION:
            self._settled = merge(shares)
            total = self._settled["witness"]["sealed"]
            self.witness = Witness(count=self._data.samples, sum=f"{total:016x}")
        elif self._how == OWN:
            self._settled = shares[0] is not None and all(one == shares[0] for one in shares)

    def state_dict(self) -> dict[str, Any]:
        """For all ranks where they agree, else for this one."""
        kept: dict[str, Any] = {"how": self._how, "world": self._world}
        if self._how == POSITION:
            return {**kept, "world": 0, "state": self._settled}
        if self._how == OWN:
            return {**kept, "world": 0 if self._settled else self._world, "state": self._data.state_dict()}
        return {**kept, "batches": self._consumed, "generators": self._generators}

    def load_state_dict(self, found: Mapping[str, Any]) -> None:
        """Go on from there. Raises Incompatible when it is of other data, or of another world's ranks."""
        if found["how"] != self._how:
            raise Incompatible(
                f"data has {self._how}, and the checkpoint keeps {found['how']}: give the same"
            )
        if self._how == COUNT:
            self._given = self._consumed = found["batches"]
            # Another world's ranks had other generators.
            self._generators = found["generators"] if found["world"] == self._world else None
        elif found["world"] not in (0, self._world):
            raise Incompatible(
                f"data's state differs between the {found['world']} ranks that saved it, and there are "
                f"{self._world} now: use as many ranks, or ml.Stream, whose position fits any world"
            )
        else:
            self._data.load_state_dict(found["state"])
        self._resumed = True

    @property
    def remark(self) -> str:
        """What a person should know of how the data goes on; empty when it is exact in any case."""
        if self._how != COUNT or not self._given:
            return ""
        return (
            f"; data cannot tell its place: the first {self._given} batches of this epoch are passed over, "
            "which is exact if an epoch's order follows from its number, or from torch's generator"
        )


def _how(data: Any) -> str:
    if not isinstance(data, state.Stateful):
        return COUNT
    return POSITION if isinstance(data, state.Positioned) else OWN


def _digest(found: Any) -> str | None:
    """Equal for equal states; None where there are tensors, which are taken to be each rank's own."""
    tensors: list[str] = []
    tree = plain.encode(found, "data", lambda path, _: tensors.append(path))
    return None if tensors else durable.digest(plain.dumps(tree).encode())
