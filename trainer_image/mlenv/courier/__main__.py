"""``python -m mlenv.courier [--once]``: carry sealed checkpoints, and bring them back when ranks ask."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from typing import Final

from mlenv.courier import config
from mlenv.courier.courier import LOOK_SECONDS, Courier
from mlenv.courier.errors import Unusable
from mlenv.courier.remote import Store
from mlenv.courier.scribe import Scribe
from mlenv.courier.spool import Spool
from mlenv_api import names
from mlenv_api.exitcodes import ExitCode

FAILED: Final = 1


def main(argv: list[str] | None = None) -> int:
    """Watch until SIGTERM, then carry what is left, for as long as the pod's grace allows.

    With --once carry what is there now and end: 0 when the store has it, 1 when it could not be carried.
    """
    parser = argparse.ArgumentParser(prog="python -m mlenv.courier", description=__doc__)
    parser.add_argument("--once", action="store_true", help="carry what is there now, and end")
    parser.add_argument("--patience", type=float, default=600.0, help="seconds for that")
    parser.add_argument("--expect", default="", help="digest of a checkpoint that the store must have then")
    asked = parser.parse_args(argv)
    try:
        found = config.current()
    except Unusable as error:
        say(str(error))
        return ExitCode.DO_NOT_RETRY
    end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end.set())
    return _attend(found, end) if found.idle else _run(found, end, asked)


def _attend(found: config.Config, end: threading.Event) -> int:
    """Keep this node's run open, for the machine's metrics. Pages are node 0's: this one tells nobody."""
    say(f"node 0 carries what is on the shared volume; node {found.node} has its own metrics only")
    store = Store(found, os.environ)
    scribe = Scribe(found, store, say)
    try:
        while not end.is_set():
            scribe.turn()
            end.wait(LOOK_SECONDS)
        scribe.finish()
    finally:
        store.close()
    return 0


def _run(found: config.Config, end: threading.Event, asked: argparse.Namespace) -> int:
    spool = Spool(found, os.environ.get(names.ENV_POD_NAME) or str(os.getpid()))
    spool.begin()
    store = Store(found, os.environ)
    courier = Courier(found, spool, store, say)
    try:
        while not asked.once and not end.is_set():
            end.wait(courier.turn())
        if asked.once:
            code = _drain(courier, asked.patience, asked.expect, end)
        else:
            code = _drain(courier, found.grace)
        courier.scribe.finish()
        return code
    finally:
        store.close()
        spool.end()


def _drain(courier: Courier, seconds: float, expect: str = "", end: threading.Event | None = None) -> int:
    """Carry what is left. What is not carried in time stays in the spool, for the next courier."""
    deadline = time.monotonic() + seconds
    courier.ending = courier.scribe.last = True
    while True:
        wait = courier.turn()
        if courier.done and courier.fault is None:
            if lacks := courier.lacks(expect):
                say(f"not everything is stored: {lacks}")
            return FAILED if lacks else 0
        if time.monotonic() + wait >= deadline or (end is not None and end.is_set()):
            why = courier.fault.sentence if courier.fault else "there was no time"
            say(f"not everything is stored: {why}. What is sealed in the spool stays there")
            return FAILED
        time.sleep(wait)


def say(text: str) -> None:
    """A line for the log."""
    sys.stderr.write(f"mlenv courier: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
