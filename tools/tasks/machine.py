"""What this machine can run, and getting what it lacks, with consent."""

from __future__ import annotations

import os
import shutil
import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


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


@cache
def lack_server() -> str:
    """Why no PostgreSQL can be started here; empty when one can. Installed with consent, as above."""
    from mlenv_local import needs  # noqa: PLC0415

    return _lack_package("PostgreSQL", needs.POSTGRESQL_PACKAGE, needs.postgresql)


@cache
def lack_browser() -> str:
    """Why no browser can be driven here; empty when one can. Installed with consent, as above."""
    from mlenv_local import needs  # noqa: PLC0415

    return _lack_package("Chromium", needs.CHROMIUM_PACKAGE, needs.chromium)


@cache
def lack_prometheus() -> str:
    """Why no Prometheus can be started here; empty when one can. Got with consent, and not installed."""
    from mlenv_local import needs  # noqa: PLC0415

    return _lack_package("Prometheus", needs.PROMETHEUS_PACKAGE, needs.prometheus, needs.unpack)


def _lack_package(
    what: str, package: str, look: Callable[[], Path | None], get: Callable[[str], None] | None = None
) -> str:
    """Why something that one Debian package brings is not here, and could not be got."""
    from mlenv_local import needs  # noqa: PLC0415
    from mlenv_local.errors import NeedsError  # noqa: PLC0415

    if look() is not None:
        return ""
    if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("apt-get"):
        return f"need {what}, as in the Debian package {package}"
    if not consent([package]):
        return f"need the Debian packages {package}; --yes installs them"
    try:
        if get is None:
            needs.install([package])
        else:
            get(package)
    except NeedsError as error:
        return f"need {_one_line(str(error))}"
    return "" if look() is not None else f"need {what}; {package} did not bring it"


def consent(packages: list[str]) -> bool:
    """Whether these Debian packages may be installed."""
    if os.environ.get("MLENV_YES") == "1":
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    sys.stderr.write(f"run: tests need Debian packages: {' '.join(packages)}. Install them? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower().startswith("y")


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")
