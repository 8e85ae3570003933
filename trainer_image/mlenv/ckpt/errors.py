"""What can be wrong with a checkpoint; every message is a sentence for a person."""

from __future__ import annotations


class CheckpointError(RuntimeError):
    """Base of everything that this package raises."""


class SealInvalid(CheckpointError):
    """A SEAL.json that cannot be believed: damaged, edited, of an unknown format, or unsafe to follow."""


class SaveFailed(CheckpointError):
    """A checkpoint was not written; nothing of it is left, and older ones are untouched."""


class ListingFailed(CheckpointError):
    """The folder could not be read, so nobody knows whether there are checkpoints. Never a fresh start."""


class NotVerified(CheckpointError):
    """A file of a checkpoint is missing, or is not what its seal says."""


class Incompatible(CheckpointError):
    """A checkpoint is whole, but of another model, optimizer or set of things."""


class NothingToResume(CheckpointError):
    """There is a past, and none of its checkpoints can be used. The message lists each with its reason."""


class NoneSane(NothingToResume):
    """All that there are were sealed, and found not sane by armed checks."""


class NotRecorded(CheckpointError):
    """Somebody else speaks for this attempt, and it runs from something else."""


class Misconfigured(CheckpointError):
    """What the job says about checkpoints cannot be obeyed: for a person, not for another attempt."""


class StateInvalid(CheckpointError):
    """Something to be saved holds what a checkpoint cannot keep."""


class TogetherFailed(CheckpointError):
    """A step that all ranks take together failed on some; the message says on which, and why."""
