"""What this machine can run, and getting what it lacks, with consent."""

from __future__ import annotations

import os
import sys
from functools import cache


@cache
def lack() -> str:
    """Why the local cluster cannot run here, as ``need root``; empty when it can.

    Debian packages that are missing are installed with consent: --yes, CI=true, or a yes in a terminal, which
    is asked for once.
    """
    if sys.platform != "linux":
        return "need Linux"
    if os.geteuid() != 0:
        return "need root"
    return _lack_as_root()


def _lack_as_root() -> str:
    # Here, so that everything else runs also when a package cannot be imported.
    from mlenv_local import needs  # noqa: PLC0415
    from mlenv_local.errors import NeedsError  # noqa: PLC0415
    from mlenv_local.progress import Reporter  # noqa: PLC0415

    missing = needs.judge(needs.look(), images=True)
    packages = sorted({one.package for one in missing if one.package})
    try:
        if packages and consent(packages):
            needs.require_needs(Reporter(), consent=True, images=True)
            return ""
    except NeedsError as error:
        return f"need {_one_line(str(error))}"
    if packages:
        return f"need the Debian packages {' '.join(packages)}; --yes installs them"
    return f"need {_one_line(' '.join(one.sentence for one in missing))}" if missing else ""


def consent(packages: list[str]) -> bool:
    """Whether these Debian packages may be installed."""
    if os.environ.get("MLENV_YES") == "1":
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    sys.stderr.write(
        f"run: the local cluster needs Debian packages: {' '.join(packages)}. Install them? [y/N] "
    )
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower().startswith("y")


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")
