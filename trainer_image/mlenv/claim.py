"""Rank 0 says what an attempt runs from, and no rank makes a step before that is recorded."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from mlenv import record
from mlenv.ckpt.errors import NotRecorded

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlenv.ckpt.group import Group
    from mlenv.job import Job
    from mlenv_api.protocol import Origin

PAUSE: Final = 0.01
SAY_SECONDS: Final = 10.0
"""Between two lines that say what is waited for; all ranks meet as often, so none of them times out."""


def settle(job: Job, control: Group, origin: Origin, say: Callable[[str], None]) -> None:
    """Propose `origin`, and wait until it is recorded, for ever: who ends this is the launcher.

    Raises CheckpointError on all ranks when something else is recorded for this attempt.
    """
    control.together("proposing what to run from", lambda: _propose(job, origin) if job.main else None)
    while True:
        found = control.gather(_wait(job) if job.main else None)[0]
        if found is not None:
            break
        say(
            f"attempt {job.attempt} waits for the operator to record that it runs from {words(origin)}; "
            "no step is made before that"
        )
    if found.checkpoint != origin.checkpoint:
        raise NotRecorded(
            f"somebody else speaks for attempt {job.attempt}: it is recorded to run from {words(found)}, and "
            f"these ranks would run from {words(origin)}. They end here, and make no step"
        )


def words(origin: Origin) -> str:
    """What is run from, for people."""
    one = origin.checkpoint
    if one is None:
        return "a fresh start"
    return f"the checkpoint of step {one.step} of attempt {one.attempt} ({one.digest[:12]})"


def _propose(job: Job, origin: Origin) -> None:
    record.write(job.run_dir, record.ORIGIN, record.Told(attempt=job.attempt, origin=origin))
    record.poke(job.run_dir, job.attempt)


def _wait(job: Job) -> Origin | None:
    end = time.monotonic() + SAY_SECONDS
    while time.monotonic() < end:
        said = record.stored(job.run_dir, job.attempt)
        if said is not None and said.origin is not None:
            return said.origin
        time.sleep(PAUSE)
    return None
