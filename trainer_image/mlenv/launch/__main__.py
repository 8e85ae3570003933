"""``python -m mlenv.launch -- program args``."""

from __future__ import annotations

import os
import signal
import sys


def main() -> int:
    """Run; the exit code. 64 (EX_USAGE) when the command line makes no sense."""
    # The kernel ignores a signal that PID 1 has no handler for, and the imports below take a while.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    from mlenv.launch import config, loop  # noqa: PLC0415

    try:
        cfg = config.read(sys.argv[1:], os.environ)
    except config.UsageError as error:
        sys.stderr.write(f"mlenv.launch: {error}\n")
        return 64
    return loop.Loop(cfg).run()


if __name__ == "__main__":
    sys.exit(main())
