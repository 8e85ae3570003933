"""What ranks tell their launcher of checkpoints: the newest good one, and what armed checks said last."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from mlenv import record
from mlenv.ckpt import seal
from mlenv_api.checkpoints import MAX_CHECK, MAX_FAILED, MAX_REASON, FailedCheck
from mlenv_api.protocol import Checkpoint, Judged, Origin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlenv.ckpt.restore import Start
    from mlenv.ckpt.seal import Seal
    from mlenv.job import Job


class Notice:
    """One node's word to its launcher, of one Session. All of it is one page, and so told together."""

    def __init__(self, job: Job, *, armed: bool) -> None:
        self._job = job
        self._armed = armed
        self._sealed: Checkpoint | None = None

    def begun(self, whole: Seal) -> None:
        """Training goes on from this one; checks do not look at it again."""
        self._sealed = identity(whole, seal.digest(whole))
        self._tell(None)

    def sealed(self, whole: Seal) -> None:
        """This one was written, and checks, if there are any, have looked at it."""
        found = identity(whole, seal.digest(whole))
        if not whole.insane:
            self._sealed = found
        self._tell(Judged(checkpoint=found, failed=failed(whole.insane)) if self._armed else None)

    def _tell(self, judged: Judged | None) -> None:
        """Where the page cannot be written, nobody hears of it for now."""
        told = record.Told(attempt=self._job.attempt, sealed=self._sealed, judged=judged)
        with contextlib.suppress(OSError):
            record.write(self._job.run_dir, record.SEALED, told)
            record.poke(self._job.run_dir, self._job.attempt)


def identity(whole: Seal, digest: str, step: int | None = None) -> Checkpoint:
    """A sealed checkpoint as messages name it."""
    return Checkpoint(attempt=max(1, whole.attempt), step=whole.step if step is None else step, digest=digest)


def origin(start: Start, *, lost: bool) -> Origin:
    """What is proposed. Of another run's checkpoint the digest, at step 0: steps count from here."""
    if start.seal is None or start.digest is None:
        return Origin(lost=lost)
    return Origin(checkpoint=identity(start.seal, start.digest, start.step), lost=lost)


def failed(reasons: Sequence[str]) -> tuple[FailedCheck, ...]:
    """The reasons of a seal, as messages have room for: of each check the first, of the first few checks."""
    found: dict[str, str] = {}
    for reason in reasons:
        check, _, text = reason.partition(": ")
        found.setdefault(check, text)
    return tuple(
        FailedCheck(check=check[:MAX_CHECK], message=_clipped(text))
        for check, text in list(found.items())[:MAX_FAILED]
    )


def _clipped(text: str) -> str:
    return text if len(text) <= MAX_REASON else f"{text[: MAX_REASON - 1]}…"
