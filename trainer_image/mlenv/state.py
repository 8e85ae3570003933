"""What a Session holds: anything with ``state_dict`` and ``load_state_dict``. Nothing inherits from ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class Stateful(Protocol):
    """An object whose state can be taken and put back."""

    def state_dict(self) -> Any:
        """Its state, as a value."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Put a state back."""


@runtime_checkable
class Positioned(Protocol):
    """Data that knows how far it is consumed, such as an ``mlenv.data.Stream``."""

    @property
    def epoch(self) -> int:
        """Whole epochs consumed."""

    @property
    def samples(self) -> int:
        """Rows that all ranks together consumed."""

    def begin(self) -> None:
        """From here on only a commit makes batches consumed."""

    def commit(self) -> None:
        """All batches given until now are consumed."""

    def agree(self) -> None:
        """Make sure that all ranks have the same data at the same position; raises when they differ."""


def check(things: Mapping[str, object]) -> None:
    """Refuse what cannot be saved, and optimizers that train something else than the given models.

    Raises TypeError and ValueError with a sentence. `data` may be any iterable.
    """
    for name, thing in things.items():
        if not isinstance(thing, Stateful) and not (name == "data" and isinstance(thing, Iterable)):
            raise TypeError(
                f"{name}={type(thing).__name__} has no state_dict() and load_state_dict(): "
                "a Session holds what must survive a restart; keep the rest in variables of your own"
            )
    _check_optimizers(things)


def _check_optimizers(things: Mapping[str, object]) -> None:
    models = {name: thing for name, thing in things.items() if isinstance(thing, nn.Module)}
    known = {id(parameter) for model in models.values() for parameter in model.parameters()}
    for name, thing in things.items():
        groups = getattr(thing, "param_groups", None)
        if isinstance(groups, list):
            strangers = sum(id(p) not in known for group in groups for p in group["params"])
            if strangers:
                where = " or ".join(models) or "any model"
                raise ValueError(
                    f"{name} holds {strangers} parameter(s) that are not in {where}: "
                    "it would train something else. Build the optimizer after the model is in its final form "
                    "(fully_shard and others replace parameters), and hand every trained model to the Session"
                )
