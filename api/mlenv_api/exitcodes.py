"""Exit codes with a meaning, the same for programs, launchers and the operator."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a program tells the platform by its exit code."""

    DONE = 0
    """The work is done."""
    RETRY = 75
    """A passing fault (sysexits.h EX_TEMPFAIL): start a new attempt."""
    PREEMPTED = 76
    """Told to stop, state saved: start again when there is room; not charged to the budget."""
    ROLL_BACK = 77
    """The state went bad: go back to the last sane checkpoint."""
    DO_NOT_RETRY = 78
    """A fault that no retry mends (sysexits.h EX_CONFIG): fail the job."""
