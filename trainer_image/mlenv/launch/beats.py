"""The thread that tells the operator how this pod fares, and hands its answers to the loop.

It never stops ranks: without an answer it tries again, for ever.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlenv import __version__, page, record
from mlenv.courier import pages
from mlenv.launch import core
from mlenv.launch.events import Answered, Say
from mlenv.launch.route import Route
from mlenv.launch.wire import Reply, Wire
from mlenv_api import names
from mlenv_api.protocol import MAX_BEAT_BYTES, Answer, Beat, Misdirected

if TYPE_CHECKING:
    from collections.abc import Callable

QUIET_FAILURES: Final = 3
"""A beat may be lost now and then; from here on the log says so."""
REPEAT_SECONDS: Final = 300.0
"""How often the same trouble is worth a line."""


PENDING_SECONDS: Final = 0.25
"""How often to ask while rank 0 waits for the record; a nudge, where one gets through, comes before."""


class Beats(threading.Thread):
    """Sends the newest state at once when kicked, else when the operator asked for the next beat."""

    def __init__(
        self,
        urls: tuple[str, ...],
        token_file: Path,
        run_dir: Path | None,
        tell: Callable[[Answered | Say], None],
        nudge_port: int | None = None,
    ) -> None:
        super().__init__(name="beats", daemon=True)
        self._route = Route(urls)
        self._wire = Wire(token_file)
        self._run_dir = run_dir
        self._tell = tell
        self._nudge_port = nudge_port
        courier = os.environ.get(names.ENV_COURIER)
        self._courier = Path(courier) if courier else None
        self._image = ""
        self._state = core.State()
        self._kick = threading.Event()
        self._closed = False
        self._said = ("", 0.0)

    def post(self, state: core.State, *, now: bool) -> None:
        """Speak of `state` from here on; `now` does not wait for the next interval."""
        self._state = state
        if now:
            self._kick.set()

    def close(self) -> None:
        """Send no more."""
        self._closed = True
        self._kick.set()

    def run(self) -> None:
        """Beat until closed."""
        wait = 0.0
        while True:
            self._kick.wait(wait)
            self._kick.clear()
            if self._closed:
                self._wire.close()
                return
            wait = self._beat_or_say()

    def _beat_or_say(self) -> float:
        try:
            return self._beat()
        except Exception as error:  # noqa: BLE001  (a launcher that fell silent would cost its whole gang)
            return self._failed(f"a fault of this launcher: {type(error).__name__}: {error}")

    def _beat(self) -> float:
        state = self._state
        # In this order, lest it speaks of a checkpoint, and not yet of the steps before it.
        told = record.told(self._run_dir, state.attempt) if self._run_dir else None
        progress = page.read(self._run_dir, state.attempt) if self._run_dir else None
        spent = page.read_spent(self._run_dir, state.attempt) if self._run_dir else None
        now, port = datetime.now(UTC), self._nudge_port
        beat = core.beat(state, now, progress, __version__, port, told=told, spent=spent)
        beat = self._carried(beat)
        try:
            reply = self._wire.post(self._route.target, encode(beat))
        except (OSError, http.client.HTTPException, ValueError) as error:
            return self._failed(f"{type(error).__name__}: {error}")
        waits = beat.origin is not None and state.origin is None
        return self._replied(reply, waits=waits)

    def _carried(self, beat: Beat) -> Beat:
        """With what this pod's courier says, where there is one."""
        told = pages.read(self._courier, pages.REPORT, pages.Report) if self._courier else None
        if told is None:
            return beat
        said = {"uploaded": told.uploaded, "degraded": told.degraded, "tracking": told.tracking}
        return beat.model_copy(update=said)

    def _replied(self, reply: Reply, *, waits: bool) -> float:
        if reply.status == 200:
            return self._answered(reply.body, waits=waits)
        if reply.status == 421:
            self._route = self._route.misdirected(_leader(reply.body))
            return self._route.delay(random.random())  # noqa: S311  (jitter)
        text = reply.body[:300].decode(errors="replace")
        return self._failed(f"HTTP {reply.status} {text}", reply.retry_after)

    def _answered(self, body: bytes, *, waits: bool) -> float:
        try:
            answer = Answer.model_validate_json(body)
        except ValueError as error:
            return self._failed(f"an answer that cannot be read: {error}"[:500])
        if self._route.failures >= QUIET_FAILURES:
            self._tell(Say("the operator answers again"))
        self._route = self._route.answered()
        self._said = ("", 0.0)
        self._tell(Answered(answer))
        self._pass_on(answer.image)
        waits = waits and answer.origin is None
        return min(answer.next_beat_seconds, PENDING_SECONDS) if waits else answer.next_beat_seconds

    def _pass_on(self, image: str) -> None:
        """Leave word for the courier of what its image is; where that fails, with the next answer."""
        if self._courier and image and image != self._image:
            with contextlib.suppress(OSError):
                pages.write(self._courier, pages.IMAGE, pages.Image(resolved=image))
                self._image = image

    def _failed(self, why: str, wish: float = 0.0) -> float:
        where = self._route.target
        self._route = self._route.failed(wish)
        if self._route.failures >= QUIET_FAILURES:
            self._complain(f"no answer from the operator at {where} ({why}); ranks run on, trying again")
        return self._route.delay(random.random())  # noqa: S311  (jitter)

    def _complain(self, text: str) -> None:
        said, when = self._said
        now = time.monotonic()
        if said == "" or now - when > REPEAT_SECONDS:
            self._said = (text, now)
            self._tell(Say(text))


def encode(beat: Beat) -> bytes:
    """`beat` as JSON that the operator accepts: the oldest evidence first, the rest once that is stored."""
    body = json.dumps(page.finite(beat.wire()), allow_nan=False).encode()
    if len(body) <= MAX_BEAT_BYTES or not beat.evidence:
        return body
    return encode(beat.model_copy(update={"evidence": beat.evidence[: len(beat.evidence) // 2]}))


def _leader(body: bytes) -> str | None:
    try:
        return Misdirected.model_validate_json(body).leader
    except ValueError:
        return None
