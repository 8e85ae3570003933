"""What a courier's container leaves behind when it ends: nobody beats for it once the launcher has gone."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlenv_api.protocol import LastWords, Tracking

if TYPE_CHECKING:
    from mlenv.courier.pages import Report

PATH: Final = Path("/dev/termination-log")
"""The kubelet puts what this file says into the pod's status when the container has ended, however it did."""


def leave(report: Report, path: Path = PATH) -> None:
    """Have them at hand: written whenever they change, as SIGKILL leaves no time. Elsewhere: nothing.

    Where there is nothing to say the file is left empty: then what the log says last is worth more.
    """
    words = LastWords(uploaded=report.uploaded, tracking=report.tracking)
    none = words in {LastWords(), LastWords(tracking=Tracking())}
    if path.exists():
        with contextlib.suppress(OSError):
            path.write_text("" if none else words.model_dump_json(by_alias=True, exclude_none=True))
