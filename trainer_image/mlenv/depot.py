"""The store behind a Session's folder: what should be there and is not, this pod's courier brings.

Ranks know nothing of the store and hold no key: rank 0 leaves word for the courier, and what that brings lies
in the folder like any other checkpoint, and is verified like any other.
"""

from __future__ import annotations

import os
import time
import uuid
from typing import TYPE_CHECKING, Any, Final

from mlenv.ckpt import listing
from mlenv.ckpt.errors import ListingFailed, Misconfigured, NothingToResume, TogetherFailed
from mlenv.courier import pages

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlenv.ckpt.group import Group
    from mlenv.ckpt.restore import Start
    from mlenv.job import Job
    from mlenv.rules import Rules

PATIENCE_VARIABLE: Final = "MLENV_STORE_PATIENCE"
PATIENCE: Final = 300.0
"""Seconds without word that anything is being brought, after which it is done without the store."""
SAY_SECONDS: Final = 10.0
"""Between two lines that say what is waited for; all ranks meet as often, so none of them times out."""
PAUSE: Final = 0.05


class Away(RuntimeError):  # noqa: N818  (it says the fact)
    """Nobody could say what the store has."""


class Depot:
    """Asks for what is missing. All ranks take part in every step."""

    def __init__(
        self,
        job: Job,
        control: Group,
        folder: Path,
        say: Callable[[str], None],
        *,
        leads: bool,
        finite: bool,
    ) -> None:
        self._job = job
        self._control = control
        self._folder = folder
        self._say = say
        self._leads = leads
        self._finite = finite
        self._tried: tuple[str, ...] = ()
        self._words = ""

    def restore(self, mine: Rules, look: Callable[[], Start]) -> Start:
        """What `look` finds, once what is recorded and not here was brought, or is not to be had.

        Raises what `look` raises, and ListingFailed where nothing is here and nobody can say what the store
        has, though something is recorded: never starts afresh for that.
        """
        past = mine.known.expected if mine.known else None
        newest = self._newest(mine)
        wanted = min(past.step, mine.ceiling or past.step) if past else -1
        # The first attempt of a job, or after a new start, has nobody who could have carried anything.
        if newest < wanted or (newest < 0 and self._job.attempt > mine.since):
            self._ask(mine, newest, known=past is not None)
        while True:
            try:
                return look()
            except NothingToResume as error:
                if not self._ask(mine, -1, known=True):
                    raise type(error)(f"{error}. From the store: {self._words}") from None

    def _ask(self, mine: Rules, above: int, *, known: bool) -> bool:
        """Whether something was brought."""
        try:
            found = self._bring(mine, above)
        except Away as error:
            if above < 0 and known:
                raise ListingFailed(
                    f"{self._folder} has no checkpoint that can be used, and the store cannot be asked "
                    f"({error}). Nothing is started afresh while nobody knows what is there: the next "
                    "attempt asks again"
                ) from None
            rest = "what is here" if above >= 0 else "nothing, as no checkpoint of this job is recorded"
            self._say(f"warning: the store cannot be asked ({error}): going on from {rest}")
            return False
        self._words = found.words
        self._tried = (*self._tried, found.digest)
        if found.name:
            self._say(found.words)
        return bool(found.name)

    def _bring(self, mine: Rules, above: int) -> pages.Brought:
        """What came of a wish. Raises Away, on all ranks."""
        courier = mine.courier
        assert courier is not None
        wanted = pages.Wanted(
            nonce=self._control.gather(uuid.uuid4().hex)[0],
            attempt=self._job.attempt,
            since=mine.since,
            ceiling=mine.ceiling,
            above=above,
            tried=self._tried[-100:],
            finite=self._finite,
        )
        self._control.together("asking the courier", lambda: _leave(courier, wanted, self._job.main))
        heard, end = "", time.monotonic() + float(os.environ.get(PATIENCE_VARIABLE, PATIENCE))
        while True:
            said = self._wait(courier, wanted, end) if self._job.main else (None, False)
            found, late = self._control.gather(said)[0]
            if found is not None and found.done:
                return found
            words = found.words if found else "its courier has not answered yet"
            if found is not None and found.patience and words != heard:
                heard, end = words, max(end, time.monotonic() + found.patience)
            elif late:
                raise Away(words)
            self._say(f"waits for a checkpoint from the store: {words}")

    def _wait(self, courier: Path, wanted: pages.Wanted, end: float) -> tuple[pages.Brought | None, bool]:
        """(the answer so far, whether patience is over)."""
        pause_ends = min(end, time.monotonic() + SAY_SECONDS)
        found = None
        while time.monotonic() < pause_ends:
            page = pages.read(courier, pages.BROUGHT, pages.Brought)
            found = page if page is not None and page.nonce == wanted.nonce else None
            if found is not None and found.done:
                break
            time.sleep(PAUSE)
        return found, time.monotonic() >= end

    def source(self, mine: Rules) -> Path:
        """The folder of the checkpoint that resume.from names in the store, on every node.

        Raises NothingToResume where it cannot be used, ListingFailed where nobody could say.
        """
        courier = mine.courier
        if courier is None:
            raise Misconfigured(
                f"spec.checkpoint.resume.from names {mine.artifact} in W&B, and this pod has no courier to"
                " bring it: add spec.tracking.wandb, or name a folder"
            )
        asks = self._job.main if mine.spool else self._job.local_rank == 0
        wanted = pages.Wanted(
            nonce=uuid.uuid4().hex, attempt=self._job.attempt, source=mine.artifact, finite=self._finite
        )
        self._control.together("asking the courier", lambda: _leave(courier, wanted, asks))
        found = self._of_all(courier, wanted, asks=asks)
        missing = next((one for one in found if not one.name), None)
        if missing is not None:
            raise NothingToResume(f"this job starts from {missing.words} (spec.checkpoint.resume.from)")
        if len({one.digest for one in found}) > 1:
            raise ListingFailed(
                f"{mine.artifact} was another version on some nodes than on others: its alias moved. The next"
                " attempt asks again; name a version to be sure"
            )
        self._say(found[0].words)
        return courier.parent / pages.SOURCES / found[0].name

    def _of_all(self, courier: Path, wanted: pages.Wanted, *, asks: bool) -> list[pages.Brought]:
        """What came of the wishes of all who asked. Raises ListingFailed, on all ranks."""
        heard, end = "", time.monotonic() + float(os.environ.get(PATIENCE_VARIABLE, PATIENCE))
        while True:
            said = self._wait(courier, wanted, end) if asks else None
            answers = [one for one in self._control.gather(said) if one is not None]
            if all(page is not None and page.done for page, _ in answers):
                return [page for page, _ in answers if page is not None]
            waits = next(page for page, _ in answers if page is None or not page.done)
            words = waits.words if waits else "its courier has not answered yet"
            if waits is not None and waits.patience and words != heard:
                heard, end = words, max(end, time.monotonic() + waits.patience)
            elif any(late and not (page and page.done) for page, late in answers):
                raise ListingFailed(
                    f"{wanted.source} cannot be asked for ({words}): the next attempt asks again"
                )
            self._say(f"waits for {wanted.source} from the store: {words}")

    def _newest(self, mine: Rules) -> int:
        """The newest step that lies in some folder and may be used; -1: none."""
        try:
            steps = self._control.together("listing", lambda: self._own(mine) if self._leads else -1)
        except TogetherFailed as error:
            raise ListingFailed(str(error)) from None
        return max(steps)

    def _own(self, mine: Rules) -> int:
        listed: list[Any] = listing.read(self._folder)
        ceiling = mine.ceiling
        return max(
            (
                one.step
                for one in listed
                if one.seal is not None
                and one.finished
                and one.attempt >= mine.since
                and (ceiling is None or one.step <= ceiling)
            ),
            default=-1,
        )


def _leave(courier: Path, wanted: pages.Wanted, asks: bool) -> None:  # noqa: FBT001  (whether it is ours to)
    if asks:
        pages.leave(courier, wanted)
