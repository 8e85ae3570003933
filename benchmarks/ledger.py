"""The ledger alone: synthetic jobs are observed, settled, asked, closed and exported, as fast as it goes.

Facts come in the order of time, as an operator would offer them, a batch each simulated minute; every hour is
settled when it is over. The database is a new SQLite file in a temporary folder, or `--dsn`. Then, in another
new file, so many jobs live for an hour (see `books.live`): what metering them takes of one core.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from books import live
from books.machines import machines
from books.times import Times

from mlenv_operator.cost.facts import (
    DOLLAR,
    HOUR,
    SECOND,
    Attributed,
    Attribution,
    Category,
    Mark,
    Node,
    Pod,
)
from mlenv_operator.cost.segments import Segment
from mlenv_operator.ledger import parquet
from mlenv_operator.ledger.calendar import hours_of
from mlenv_operator.ledger.database import sqlite_file
from mlenv_operator.ledger.exports import MemoryMarks
from mlenv_operator.ledger.ledger import open_ledger
from mlenv_operator.ledger.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mlenv_operator.cost.facts import Fact, Micros
    from mlenv_operator.ledger.ledger import Ledger

MONTH = 202501
START = hours_of(MONTH)[0] * HOUR
JOBS_PER_HOUR = 417
"""300,000 in a month."""
MINUTE = 60 * SECOND
TYPES = {"p5.48xlarge": 55_040_000_000, "p4d.24xlarge": 21_957_642_000, "g6.48xlarge": 13_350_400_000}
TEAMS = [f"team-{number}" for number in range(50)]


class Prices:
    """A fixed price for each type of machine."""

    def segments(self, node: Node, start: Micros, end: Micros) -> Sequence[Segment]:
        """One price for all time."""
        hourly = TYPES[node.instance_type]
        return (Segment(start, end, node.instance_type, hourly, hourly * 3 // 5),)

    def describe(self, price_id: str) -> Mapping[str, str | int]:
        """Where it is from."""
        return {"type": price_id, "source": "benchmark"}

    def version(self) -> str:
        """Never another."""
        return ""


def job(
    rng: random.Random, number: int, nodes: Sequence[Node], begin: Micros
) -> Iterator[tuple[Micros, Fact]]:
    """One to four pods, half of a node each, one attempt or two, a checkpoint now and then."""
    model = number % 500
    team = TEAMS[model % len(TEAMS)]
    uid = f"job-uid-0000-0000-0000-{number:012d}"
    whom = Attribution(f"ns-{team}", f"train-{number}", uid, team, f"model-{model}", "ranking", team, "gpu")
    yield begin, Attributed(uid, begin, whom)
    length = int(min(rng.lognormvariate(7.4, 1.1), 40_000)) * SECOND
    for index in range(rng.choice((1, 1, 2, 4))):
        node = rng.choice(nodes)
        bare = Pod(
            f"pod-{index:04d}-0000-0000-0000-{number:012d}",
            whom.namespace,
            f"{whom.job}-{index}-0",
            uid,
            node.uid,
            gpus=4,
            cpu_milli=96_000,
            scheduled=begin + rng.randrange(20 * SECOND),
            telemetry=True,
        )
        started = bare.scheduled + rng.randrange(90 * SECOND)
        ended = started + length
        yield bare.scheduled, bare
        yield started, replace(bare, started=started)
        yield ended, replace(bare, started=started, finished=ended, released=ended + 2 * SECOND)
        yield from marks(rng, bare, started, ended)


def marks(rng: random.Random, pod: Pod, started: Micros, ended: Micros) -> Iterator[tuple[Micros, Fact]]:
    """What the pod did: steps, a checkpoint each twenty minutes, a second attempt for one in five."""
    did = [
        (started + 10 * SECOND, Category.CHECKPOINT_RESTORE, 1),
        (started + 15 * SECOND, Category.PRODUCTIVE, 1),
    ]
    attempt, fails = 1, started + (ended - started) // 2 if rng.random() < 0.2 else None
    for at in range(started + 20 * MINUTE, ended, 20 * MINUTE):
        if fails is not None and at > fails:
            attempt, fails = 2, None
            did += [(at - MINUTE, Category.RECOVERY, 2), (at - 50 * SECOND, Category.LOST_WORK, 2)]
        did += [(at, Category.CHECKPOINT_SAVE, attempt), (at + 3 * SECOND, Category.PRODUCTIVE, attempt)]
    for sequence, (at, category, number) in enumerate(did):
        if at < ended:
            yield at, Mark(pod.uid, at, sequence, number, category)


def feed(ledger: Ledger, times: Times, jobs: int, nodes: Sequence[Node]) -> tuple[int, Micros]:
    """Everything that happens, as it happens; how many facts that was, and when it ended."""
    rng, count, hour = random.Random(1), 0, START
    waiting: dict[Micros, list[Fact]] = defaultdict(list)
    waiting[START].extend(nodes)
    step = HOUR // JOBS_PER_HOUR
    made = 0
    while waiting or made < jobs:
        while made < jobs and START + made * step < hour + HOUR:
            for at, fact in job(rng, made, nodes, START + made * step):
                waiting[at // MINUTE * MINUTE].append(fact)
            made += 1
        for at in sorted(one for one in waiting if one < hour + HOUR):
            batch = waiting.pop(at)
            count += len(batch)
            with times.of("observe"):
                ledger.observe(batch)
        hour += HOUR
        with times.of("settle"):
            ledger.settle_all(hour + ledger.rules.grace - HOUR)
    return count, hour


def ask(ledger: Ledger, times: Times, end: Micros, folder: Path) -> None:
    """The questions that people and dashboards ask, each once; then the month is closed and exported."""
    first, last = START, -(-end // HOUR) * HOUR
    uid = f"job-uid-0000-0000-0000-{7:012d}"
    with times.of("counters shown"):
        ledger.publish(MemoryMarks(), end)
    with times.of("month by team and type"):
        ledger.group(["team", "instance_type", "capacity_type"], first, last)
    with times.of("month by job"):
        ledger.group(["job"], first, last)
    with times.of("one job"):
        ledger.job(uid, end)
    with times.of("one job explained"):
        ledger.explain(uid)
    over = hours_of(MONTH)[1] * HOUR
    with times.of("close the month"):
        ledger.close_month(MONTH, max(over, end))
    with times.of("export the month"):
        parquet.export(ledger.database, MONTH, folder)
    with times.of("month by team and type, Parquet"):
        parquet.group(folder, ["team", "instance_type", "capacity_type"], MONTH)


def size_of(ledger: Ledger) -> int:
    """Bytes of the database, once its log is folded in."""
    with ledger.database.reading() as connection:
        if not ledger.database.is_sqlite:
            return int(
                connection.exec_driver_sql("SELECT pg_database_size(current_database())").scalar() or 0
            )
    raw = ledger.database.writing.raw_connection()
    raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    raw.close()
    return sqlite_file(ledger.database.url).stat().st_size


def history(jobs: int, nodes: int, dsn: str, folder: Path) -> dict[str, float]:
    """A month, or less, that is over: its figures."""
    times = Times()
    ledger = open_ledger(dsn, Prices())
    ledger.begin(Writer(1, "benchmark"))
    end = START + (jobs // JOBS_PER_HOUR + 14) * HOUR
    facts, over = feed(ledger, times, jobs, machines(list(TYPES), nodes, START, end))
    ledger.settle_all(max(end, over) + 10 * HOUR)
    size = size_of(ledger)
    ask(ledger, times, max(end, over), folder)
    with times.of("check everything"):
        wrong = ledger.imbalance()
    with ledger.database.reading() as connection:
        rows = int(connection.exec_driver_sql("SELECT count(*) FROM charge").scalar() or 0)
    spent = ledger.group([], START, -(-over // HOUR) * HOUR)[()].cost
    for what, seconds in times.seconds.items():
        print(f"{what:<34} {seconds:9.3f} s, {times.cpu[what]:9.3f} s of CPU")
    working = times.seconds["observe"] + times.seconds["settle"]
    print(f"{jobs} jobs, {facts} facts, {rows} rows, {spent / DOLLAR:,.2f} dollars, {size / 1e6:.1f} MB")
    print(
        f"{facts / times.seconds['observe']:.0f} facts/s stored, "
        f"{rows / times.seconds['settle']:.0f} rows/s settled"
    )
    figures = {
        "jobs_per_s": round(jobs / working, 1),
        "bytes_per_job": round(size / jobs),
        "month_group_by_s": round(times.seconds["month by team and type, Parquet"], 4),
        "rss_mb": peak_mb(),
        "imbalance_nanodollars": wrong,
    }
    ledger.database.close()
    return figures


def peak_mb() -> float:
    """The most memory that this process ever had."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def metering(fleet: live.Fleet, minutes: int, folder: Path) -> float:
    """What metering these live jobs takes of one core."""
    times = Times()
    ledger = open_ledger(f"sqlite:///{folder}/live.db", Prices())
    ledger.begin(Writer(1, "benchmark"))
    found = live.share(ledger, times, fleet, list(TYPES), minutes)
    wrong = ledger.imbalance()
    ledger.database.close()
    if wrong:
        raise SystemExit(f"{wrong} nanodollars do not add up among live jobs")
    print(
        f"{fleet.jobs} live jobs of {fleet.pods} pods for {minutes} minutes, {found.live} shown in the end: "
        f"{found.cpu:.1f} s of CPU, {peak_mb():.0f} MB"
    )
    for part in live.PARTS:
        cpu, calls = times.cpu[part], times.calls[part]
        print(f"    {part:<30} {cpu:9.3f} s of CPU, {calls} times, {cpu / found.seconds:.5f} of a core")
    return found.cpu / found.seconds


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--nodes", type=int, default=120)
    parser.add_argument(
        "--dsn", default="", help="a database of its own; SQLite in a temporary folder unless given"
    )
    parser.add_argument("--live-jobs", type=int, default=10_000)
    parser.add_argument("--live-pods", type=int, default=4, help="of each live job, with a device each")
    parser.add_argument("--live-minutes", type=int, default=60, help="of the live jobs' time")
    parser.add_argument("--live-changes", type=float, default=5.0, help="of live jobs a second")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = history(options.jobs, options.nodes, options.dsn or f"sqlite:///{folder}/ledger.db", folder)
        fleet = live.Fleet(options.live_jobs, options.live_pods, options.live_changes)
        share = metering(fleet, options.live_minutes, folder)
    print(json.dumps({**figures, "operator_cpu_share": round(share, 5)}))


if __name__ == "__main__":
    main()
