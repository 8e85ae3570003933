"""``python -m mlenv_operator run``: the operator. ``strip-finalizers``: what its removal needs."""

from __future__ import annotations

import argparse
import os
import sys

import uvloop

from mlenv_api import __version__
from mlenv_operator import app, uninstall
from mlenv_operator.adapters import logs
from mlenv_operator.runtime.lease import LeadershipLostError
from mlenv_operator.settings import Settings, SettingsError

COMMANDS = {
    "run": "watch TrainingJobs and run them",
    "strip-finalizers": "after the operator was removed: let go of its pods",
}


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit status."""
    parser = argparse.ArgumentParser(prog="mlenv_operator", description="TCP's operator for TrainingJobs.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text, description=f"{text.capitalize()}.")
    command = parser.parse_args(argv).command
    try:
        settings = Settings.from_environment(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    logs.configure(settings.log_level, as_json=settings.log_format == "json")
    return _run(command, settings)


def _run(command: str, settings: Settings) -> int:
    try:
        if command == "run":
            uvloop.run(app.run(settings))
        else:
            uvloop.run(uninstall.strip_finalizers(settings, app.USER_AGENT))
    except (app.StartError, LeadershipLostError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
