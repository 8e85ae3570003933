"""The commands of ``./run``."""

from __future__ import annotations

import argparse
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from tasks import bench, checks, testing
from tasks.process import TaskError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HELP = """\
./run demo [--keep] [--yes]    a real Kubernetes, a recommender on two nodes, lost, resumed, and billed;
                               --name NAME for another cluster than mlenv
./run test [--slow] [--yes]    every check and every test; --tier NAME (again and again) for some of them
./run lint                     formatting, rules, types, layers, generated files
./run bench [NAME]             a benchmark; without a name it says which there are
./run help                     this

Exit codes of test: 0 all passed, 1 something failed, 3 nothing failed but something could not be run.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; its errors are sentences, and exit code 2."""
    words = sys.argv[1:] if argv is None else list(argv)
    if not words or words[0] in {"help", "-h", "--help"}:
        sys.stdout.write(HELP)
        return 0
    arguments = _parser().parse_args(words)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except TaskError as error:
        sys.stderr.write(f"run: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\nrun: interrupted\n")
        return 130


def _end(number: int, _: object) -> NoReturn:
    """Ends as Ctrl-C does, so that what was started is taken down."""
    raise SystemExit(128 + number)


def _demo(arguments: argparse.Namespace) -> int:
    # Here, so that the checks run also when a package cannot be imported.
    from tasks import demo  # noqa: PLC0415

    return demo.run(keep=arguments.keep, name=arguments.name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./run", usage=HELP, add_help=False)
    commands = parser.add_subparsers(required=True)
    demonstration = commands.add_parser("demo")
    demonstration.add_argument("--keep", action="store_true", help="leave the cluster up")
    demonstration.add_argument("--name", default="mlenv", help="of the cluster")
    demonstration.set_defaults(command=_demo)
    tests = commands.add_parser("test")
    tests.add_argument("--slow", action="store_true", help="the slow tier, too")
    tests.add_argument("--tier", action="append", choices=testing.NAMES, help="only this tier")
    tests.set_defaults(command=lambda a: testing.run(only=tuple(a.tier or ()), slow=a.slow))
    commands.add_parser("lint").set_defaults(command=lambda _: checks.run())
    benchmark = commands.add_parser("bench")
    benchmark.add_argument("name", nargs="?")
    benchmark.add_argument("rest", nargs=argparse.REMAINDER)
    benchmark.set_defaults(command=lambda a: bench.run(a.name, a.rest))
    for one in (demonstration, tests):
        one.add_argument("--yes", action="store_true", help="install Debian packages without asking")
    return parser
