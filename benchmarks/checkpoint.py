"""What Session, checkpoints and loader cost a loop, against loops by hand, torch.save, DataLoader and Fabric.

All loops train the same model on the same data in one process, in turns whose order rotates. A Session
with checkpoints has turns of one interval with one checkpoint, next to turns of a Session without; which of
the two is first changes from round to round. Ratios are taken within a round, so that what else keeps the
machine busy meets both sides; shown are the median over the rounds, and the middle half.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from loops import figures
from loops.setup import Size, write_rows
from loops.turns import BIG, LONG, TINY, long

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from loops.turns import Turn

SMALL = Size(width=16, depth=1, batch=8, steps=12, table=100, rows=400, rounds=2, interval=0)


def measure(size: Size, folder: Path, say: Callable[[str], None]) -> list[dict[str, Turn]]:
    """Every loop once a round, after one round to warm up."""
    names = [*BIG, *TINY]
    found = []
    began = time.monotonic()
    steps = size.steps
    for number in range(-1, size.rounds):
        order = names[number % len(names) :] + names[: number % len(names)]
        turns = {name: ({**BIG, **TINY})[name](size, folder / f"{name}-{number}") for name in order}
        for name in [*LONG][:: 1 if number % 2 else -1]:
            turns[name] = long(LONG[name], steps)(size, folder / f"{name}-{number}")
        if number < 0 and size.interval:
            steps = int(size.interval / turns["session, long"].per_step)
        if number >= 0:
            found.append(turns)
            say(f"round {number + 1} of {size.rounds}")
        if len(found) > 1 and time.monotonic() - began > size.seconds:
            say(f"{size.seconds} s are over")
            break
    return found


def arguments() -> Size:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="does it work? figures of seconds mean nothing")
    for name, default, text in Size.options():
        parser.add_argument(f"--{name}", type=int, default=default, help=text)
    given = vars(parser.parse_args())
    return SMALL if given.pop("small") else Size(**given)


def show(rounds: list[dict[str, Turn]], size: Size) -> Mapping[str, float]:
    """Print the table and the figures."""
    print(f"{size.describe()}, {len(rounds)} rounds\n")
    for name in [*BIG, *TINY, *LONG]:
        one = figures.middle([turns[name].per_step * 1000 for turns in rounds])
        print(f"  {name:<18} {one.median:8.3f} ms a step   (middle half {one.low:.3f} to {one.high:.3f})")
    print()
    found = figures.of(rounds)
    for name, one in found.items():
        print(f"  {name:<28} {one.median:9.4f}   (middle half {one.low:.4f} to {one.high:.4f})")
    return {name: round(one.median, 4) for name, one in found.items()}


def main() -> int:
    """Run all rounds; the last line is JSON."""
    size = arguments()
    torch.set_num_threads(size.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_rows(folder, size)
        rounds = measure(size, folder, lambda text: print(text, file=sys.stderr, flush=True))
    print(json.dumps(show(rounds, size)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
