"""W&B being slow or away costs no step: training with it healthy, slow and dead, against without.

One job trains in turns: sealing alone; and with a courier while W&B is healthy, slow in every operation and
byte, or dead (its port closed, or 503 to everything, by turns). Launcher, rank, courier, the unmodified
client and the W&B server are real processes on this machine. A checkpoint comes in the middle of each
interval, and what the last turn left behind is ended before the next. Every other turn seals alone, and each
with a courier is compared with those before and after it; shown is the median. Then: how long a checkpoint
takes from its seal until every byte was read back, and how fast the rows of a job that logs all the time
arrive.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from carrying import figures
from carrying.turns import Bench
from carrying.watching import machine
from crowd.usage import busy
from loops.setup import DIM, Size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from carrying.figures import Seen, Turn

BYTES_PER_ROW = 12 * DIM
"""Of the table: its numbers, and two moments of each."""
SMALL = {
    "rounds": 2,
    "seconds": 0.4,
    "saves": 1,
    "mb": 1.0,
    "width": 16,
    "batch": 8,
    "big_mb": 4.0,
    "stores": 1,
    "big": 1,
    "rows": 60,
}
CALIBRATE_SECONDS = 6.0
IDLE_SECONDS = 2.0


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="does it work? its figures mean nothing")
    parser.add_argument("--rounds", type=int, default=5, help="in each of which every state has a turn")
    parser.add_argument("--seconds", type=float, default=20, help="from checkpoint to checkpoint, about")
    parser.add_argument("--saves", type=int, default=1, help="intervals that are timed, in each turn")
    parser.add_argument("--mb", type=float, default=10, help="of a checkpoint while training is timed")
    parser.add_argument("--width", type=int, default=384, help="of the model's layers: how long a step is")
    parser.add_argument("--batch", type=int, default=256, help="rows a step: the same")
    parser.add_argument("--delay", type=float, default=2, help="seconds of every operation when W&B is slow")
    parser.add_argument("--rate", type=float, default=1, help="MB/s of every request when W&B is slow")
    parser.add_argument("--big-mb", type=float, default=200, help="of a big checkpoint")
    parser.add_argument("--stores", type=int, default=5, help="checkpoints of --mb, by themselves")
    parser.add_argument("--big", type=int, default=3, help="the same, of --big-mb")
    parser.add_argument("--rows", type=int, default=10_000, help="of the history of a job that logs fast")
    args = parser.parse_args(argv)
    if args.small:
        vars(args).update(SMALL)
    return args


def size_of(args: argparse.Namespace, megabytes: float) -> Size:
    """A model and optimizer of so many megabytes; how much of that is a table, which costs no step."""
    model = Size(width=args.width, depth=3, batch=args.batch, table=1)
    towers = 12 * ((DIM + 1) * args.width + model.depth * args.width**2)
    return Size(**{**vars(model), "table": max(1, int((megabytes * 1e6 - towers) / BYTES_PER_ROW))})


def turns(bench: Bench, args: argparse.Namespace, size: Size, every: int) -> list[Seen]:
    """Every state once a round, and training alone between any two."""

    def turn(state: str) -> Turn:
        made = bench.turn(state, size, every, args.saves)
        say(f"{state:<14} {line(made)}")
        return made

    found, before = [], turn(figures.ALONE)
    for number, state in enumerate(figures.states(args.rounds)):
        say(f"turn {number + 1} of {args.rounds * len(figures.STATES)}")
        between, after = turn(state), turn(figures.ALONE)
        found.append(figures.Seen(state, between, (before, after)))
        before = after
    return found


def line(turn: Turn) -> str:
    """One turn, for those who wait."""
    stored = ", ".join(f"{one:.1f}" for one in turn.commits)
    return (
        f"{turn.per_step * 1000:8.3f} ms a step, courier {turn.courier:.2f} cores, elsewhere"
        f" {turn.elsewhere:.2f}" + (f"; stored after {stored} s" if stored else "")
    )


COLUMNS = ("", "ms a step", "against alone", "middle half", "CPU ms a step", "courier", "server", "elsewhere")
WIDTHS = (16, 10, 15, 20, 15, 9, 8, 11)


def table(seen: Sequence[Seen]) -> str:
    """What training did in each state."""
    alone = [seen[0].alone[0], *(one.alone[1] for one in seen)]
    rows = [row(figures.ALONE, alone, [1.0])]
    for state in (figures.HEALTHY, figures.SLOW, *figures.DEAD):
        those = [one for one in seen if one.state == state]
        rows += [row(state, [one.turn for one in those], [one.ratio for one in those])] if those else []
    return "\n".join(laid(cells) for cells in (COLUMNS, *rows))


def row(name: str, found: Sequence[Turn], ratios: Sequence[float]) -> tuple[str, ...]:
    """One state, over its turns."""
    step = figures.spread([1000 * one.per_step for one in found]).median
    cpu = figures.spread([1000 * one.cpu for one in found]).median
    ratio = figures.spread(ratios)
    cores = [[one.courier, one.server, one.elsewhere] for one in found]
    means = [f"{statistics.fmean(column):.2f}" for column in zip(*cores, strict=True)]
    half = f"{ratio.low:.4f} to {ratio.high:.4f}"
    return (name, f"{step:.3f}", f"{ratio.median:.4f}", half, f"{cpu:.3f}", *means)


def laid(cells: Sequence[str]) -> str:
    """The first to the left, the others to the right."""
    first, *others = zip(cells, WIDTHS, strict=True)
    return f"{first[0]:<{first[1]}}" + "".join(f"{cell:>{width}}" for cell, width in others)


def listed(seconds: Sequence[float]) -> str:
    """One after the other."""
    return ", ".join(f"{one:.1f}" for one in seconds) or "none within a turn"


def idle() -> float:
    """Cores that others take before anything begins."""
    before = busy()
    time.sleep(IDLE_SECONDS)
    return (busy() - before) / IDLE_SECONDS


def main() -> int:
    """Run all, print the table, and as the last line the figures as JSON."""
    args = arguments()
    where = f"{machine()}, of which others took {idle():.2f} before this began; load {os.getloadavg()[0]:.1f}"
    size, big = size_of(args, args.mb), size_of(args, args.big_mb)
    with tempfile.TemporaryDirectory(prefix="mlenv-bench-") as folder:
        bench = Bench(Path(folder), args.delay, args.rate * 1e6)
        try:
            step = bench.calibrate(size, min(CALIBRATE_SECONDS, args.seconds))
            every = max(2, int(args.seconds / step))
            say(f"{where}; a step takes {step * 1000:.2f} ms: a checkpoint every {every} steps")
            found = turns(bench, args, size, every)
            small, large = bench.stores(size, args.stores), bench.stores(big, args.big)
            rate = bench.history(size, args.rows)
        finally:
            bench.close()
    print(where)
    print(
        f"{args.mb:g} MB sealed every {args.seconds:g} s ({every} steps), {args.saves} timed in a turn,"
        f" {args.rounds} rounds; one thread trains;\nslow: {args.delay:g} s more for every operation, and"
        f" {args.rate:g} MB/s; the last three columns are cores\n"
    )
    print(table(found))
    print("\nFrom seal to verified, in seconds:")
    print(f"{args.mb:g} MB beside training   {listed(figures.commits(found))}")
    for one in (small, large):
        print(f"{one.megabytes:.0f} MB, nothing else to do   {listed(one.seconds)}")
    print(f"\n{args.rows} rows of history of a job that logs all the time: {rate:.0f} a second")
    print(json.dumps(figures.figures(found, small, large, rate)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
