"""A real Chromium without a window, of Debian's package, driven by playwright."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from playwright.sync_api import sync_playwright

from mlenv_local import needs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser, started now; fails with a sentence where there is none."""
    if (path := needs.chromium()) is None:
        raise RuntimeError(f"There is no Chromium: install the Debian package {needs.CHROMIUM_PACKAGE}.")
    # Its sandbox refuses root; what it shows here comes from this machine.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, headless=True, args=arguments)
        try:
            yield started
        finally:
            started.close()
