"""What stops a courier, or one of its errands; every message is a sentence for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlenv.courier.faults import Fault


class Unusable(ValueError):
    """The environment makes no sense; the message says what to write instead."""


class StoreFailed(RuntimeError):
    """An operation of the store that did not happen, or of which nobody knows whether it did."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.sentence)
        self.fault = fault


class Unfit(RuntimeError):
    """One version that cannot be used, and why; another may."""
