"""`python -m mlenv_local.wandb_server`: the server in the foreground."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mlenv_local.errors import LocalError
from mlenv_local.wandb_server.running import serve
from mlenv_local.wandb_server.settings import DEFAULT_PORT, Settings


def main() -> int:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="mlenv_local.wandb_server", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds everything")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="0: any that is free")
    parser.add_argument("--public-url", default="", help="base of handed-out URLs")
    parser.add_argument("--crashed-after", type=float, default=300.0, help="seconds of a run's silence")
    parser.add_argument("--collect-every", type=float, default=600.0, help="seconds; 0: never by itself")
    given = parser.parse_args()
    try:
        serve(Settings(**vars(given)))
    except LocalError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
