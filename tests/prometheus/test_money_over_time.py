"""A real Prometheus scrapes money while operators restart, fail over, correct, and prices change."""

from __future__ import annotations

import shutil
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import pytest
import scraper
from crowd.ports import free_port
from ledgers import START, Book, attribution, node, pod
from prometheus_client import CollectorRegistry, generate_latest, start_http_server

from mlenv_operator.adapters import money_table
from mlenv_operator.adapters.metrics import Metrics
from mlenv_operator.adapters.money import Money
from mlenv_operator.core.budgets import figures, read_budget
from mlenv_operator.cost.facts import DOLLAR, HOUR, SECOND, Attributed
from mlenv_operator.ledger import rollups
from mlenv_operator.ledger.accountant import Figures
from mlenv_operator.ledger.errors import BelowMark
from mlenv_operator.ledger.exports import FileMarks
from mlenv_operator.ledger.ledger import open_ledger
from mlenv_operator.ledger.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scraper import Prometheus

    from mlenv_operator.core.budgets import Figure
    from mlenv_operator.cost.facts import Fact, Micros

pytestmark = [pytest.mark.prometheus, pytest.mark.timeout(1800)]
RECORDED = "mlenv:trainingjob_cost_usd_total:max"
MINUTE = 60 * SECOND
RANGE = "1h"
"""Of Prometheus' time: longer than the test takes."""


BUDGET: Final = read_budget(
    {"metadata": {"name": "p", "uid": "b"}, "spec": {"team": "team-p", "amountUSD": "1000"}}
)


class Operator:
    """One process of the operator, as far as money is concerned."""

    def __init__(self, folder: Path, book: Book, port: int, term: int) -> None:
        self.figures, self.leads = Figures(), True
        self._marks = FileMarks(folder / "marks" / "counters.json")
        self.ledger = open_ledger(f"sqlite:///{folder}/ledger.db", book)
        self.ledger.begin(Writer(term, f"operator-{term}"))
        self.money = Money(lambda: self.figures, lambda: self.leads, self._budgets)
        registry = CollectorRegistry()
        registry.register(self.money)
        self._server, self._thread = start_http_server(port, "127.0.0.1", registry)

    def _budgets(self) -> tuple[Figure, ...]:
        shown = self.figures.exposition
        return figures([BUDGET], shown.month if shown else None)

    def work(self, now: Micros, *facts: Fact) -> None:
        """Store, settle and publish once, as the accountant does."""
        self.ledger.observe(facts)
        self.ledger.settle_all(now)
        try:
            self.figures.exposition = self.ledger.publish(self._marks, now)
            self.figures.condition = ""
        except BelowMark as error:
            self.figures.exposition, self.figures.condition = None, str(error)

    def shown(self) -> dict[tuple[str, ...], float]:
        """Counters of cost as this process shows them, by labels."""
        metric = next(one for one in self.money.collect() if one.name == "trainingjob_cost_usd")
        return {tuple(value for _, value in sorted(one.labels.items())): one.value for one in metric.samples}

    def end(self) -> None:
        """As a process that goes: its port is free, its database closed."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self.ledger.database.close()


@dataclass
class Stage:
    """Two replicas' ports, what leads now, and a Prometheus that sees both."""

    folder: Path
    ports: tuple[int, int]
    prometheus: Prometheus
    book: Book = field(default_factory=Book)
    term: int = 0
    now: Micros = START
    leader: Operator | None = None

    def start(self, port: int) -> Operator:
        """The next term begins, in a new process."""
        self.term += 1
        self.leader = Operator(self.folder, self.book, port, self.term)
        return self.leader

    def until(self, at: Micros, *facts: Fact, step: Micros = 10 * MINUTE) -> None:
        """Work until then; after each publication Prometheus has seen and recorded exactly what is shown."""
        assert self.leader is not None
        while self.now < at:
            self.now = min(self.now + step, at)
            self.leader.work(self.now, *facts)
            shown, facts = self.leader.shown(), ()
            assert shown
            self.prometheus.wait(RECORDED, lambda found, shown=shown: found == shown)  # type: ignore[misc]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    ports = free_port(), free_port()
    (tmp_path / "marks").mkdir()
    with ExitStack() as stack:
        one = Stage(tmp_path, ports, stack.enter_context(scraper.prometheus(tmp_path, ports)))
        yield one
        if one.leader is not None:
            one.leader.end()


def test_what_prometheus_adds_up_is_what_the_ledger_says(stage: Stage) -> None:
    first, second = stage.ports
    machine = node("a")
    held = pod("p", "j", machine, gpus=8, started=START + MINUTE)
    stage.start(first)
    stage.until(START + 4 * MINUTE, machine, held, Attributed("uid-j", 0, attribution("j")), step=MINUTE)
    stage.until(START + 80 * MINUTE)

    # A restart of the process.
    assert stage.leader is not None
    stage.leader.end()
    stage.start(first)
    stage.until(START + 100 * MINUTE)

    # A correction: the pod had ended before the first hour was over. The counter rests, and does not go back.
    before = stage.leader.shown()
    ended = START + 50 * MINUTE
    stage.until(START + 110 * MINUTE, replace(held, finished=ended, released=ended))
    assert stage.leader.shown() == before

    # Prices change, and another pod of the same team spends at the new one.
    stage.book.prices["p5"] = 80 * DOLLAR
    again = pod("q", "k", machine, gpus=8, scheduled=START + 110 * MINUTE, started=START + 111 * MINUTE)
    stage.until(START + 4 * HOUR, again, Attributed("uid-k", 0, attribution("k")))

    # A failover to the standby: the old leader still answers scrapes, and shows no money.
    old = stage.leader
    old.leads = False
    stage.start(second)
    other = node("b")
    newer = pod("r", "l", other, gpus=2, scheduled=START + 4 * HOUR, started=START + 4 * HOUR + MINUTE)
    facts = (other, newer, Attributed("uid-l", 0, attribution("l", "feed")))
    stage.until(START + 4 * HOUR + 4 * MINUTE, *facts, step=MINUTE)
    stage.until(START + 5 * HOUR)
    standby = 'trainingjob_ledger_state{state="standby"} == 1'
    stage.prometheus.wait(standby, lambda found: len(found) == 1)  # but for a scrape that comes too late
    old.end()

    # All ends, and all is closed: counters, ledger and Prometheus say one sum.
    end = stage.now
    ends = [replace(one, finished=end, released=end) for one in (again, newer)]
    stage.until(START + 7 * HOUR, *ends, step=HOUR)
    _agree(stage)


def _agree(stage: Stage) -> None:
    assert stage.leader is not None
    assert stage.leader.ledger.imbalance() == 0
    closed: dict[tuple[str, ...], int] = {}
    for one in stage.leader.ledger.counters(rollups.JOBS):
        labels = {name: value for name, value in one.labels.items() if name != "gpu_model"}
        key = tuple(value for _, value in sorted(labels.items()))
        closed[key] = closed.get(key, 0) + one.committed.cost
    ask = stage.prometheus.query
    last, least = ask(f"max_over_time({RECORDED}[{RANGE}])"), ask(f"min_over_time({RECORDED}[{RANGE}])")
    increase, samples = ask(f"increase({RECORDED}[{RANGE}])"), ask(f"count_over_time({RECORDED}[{RANGE}])")
    assert set(least.values()) == {0.0}, "a series was not seen at its birth"
    assert last == {key: cost / DOLLAR for key, cost in closed.items()}
    assert sum(closed.values()) > 100 * DOLLAR
    for key, cost in last.items():
        # Prometheus adds what it takes to have come before the first and after the last sample.
        assert cost * (1 - 1e-9) <= increase[key] <= cost * (1 + 2.2 / (samples[key] - 1)) + 1e-9


def test_a_ledger_from_an_older_backup_shows_nothing_and_makes_no_phantom_fortune(stage: Stage) -> None:
    machine = node("a")
    held = pod("p", "j", machine, gpus=8, started=START + MINUTE)
    stage.start(stage.ports[0])
    stage.until(START + 4 * MINUTE, machine, held, Attributed("uid-j", 0, attribution("j")), step=MINUTE)
    stage.until(START + 30 * MINUTE)
    assert stage.leader is not None
    stage.leader.end()
    file, old, new = (stage.folder / name for name in ("ledger.db", "old.db", "new.db"))
    shutil.copy(file, old)
    stage.start(stage.ports[0])
    stage.until(START + 3 * HOUR)
    stage.leader.end()
    shutil.copy(file, new)

    shutil.copy(old, file)
    restored = stage.start(stage.ports[0])
    restored.work(stage.now)
    stage.prometheus.wait('trainingjob_ledger_state{state="hidden"} == 1', bool)
    stage.prometheus.wait("trainingjob_cost_usd_total", lambda found: not found)
    restored.end()

    shutil.copy(new, file)
    stage.start(stage.ports[0])
    stage.until(START + 4 * HOUR)
    total = sum(stage.leader.shown().values())
    increase = sum(stage.prometheus.query(f"increase({RECORDED}[{RANGE}])").values())
    assert total * (1 - 1e-9) <= increase < 1.2 * total


def test_a_whole_node_is_paid_by_the_job_that_holds_its_gpus(stage: Stage) -> None:
    # Splitting by processors and memory would bill 58 % of the node; the rest would look idle.
    machine = node("a", cpu_milli=192_000, memory_bytes=2**41)
    end = START + 2 * HOUR
    held = pod("p", "j", machine, gpus=8, cpu_milli=96_000, memory_bytes=2**40, scheduled=START)
    held = replace(held, finished=end, released=end)
    stage.start(stage.ports[0])
    stage.until(end + 10 * MINUTE, machine, held, Attributed("uid-j", 0, attribution("j")))
    assert stage.leader is not None
    cost = sum(stage.leader.shown().values())
    stage.prometheus.wait(
        "sum(trainingjob_list_cost_usd_total)", lambda found: found == {(): 2 * (55 * DOLLAR + 7) / DOLLAR}
    )
    job = 'max by (trainingjob) (trainingjob_job_cost_usd{trainingjob="j"})'
    stage.prometheus.wait(job, lambda found: found == pytest.approx({("j",): cost}))


NAMED = 'count by (name) (label_replace({__name__=~"trainingjob_.+"}, "name", "$1", "__name__", "(.+)"))'


def test_everything_in_the_table_is_scraped_and_says_what_the_ledger_says(stage: Stage) -> None:
    machines = node("a"), node("b"), node("c", instance_type="rare", capacity_type="spot")
    held = [
        pod(name, name, on, started=START + MINUTE, telemetry=True)
        for name, on in zip("pqr", machines, strict=True)
    ]
    whose = [Attributed(one.job_uid, 0, attribution(one.name, f"team-{one.name}")) for one in held]
    leader = stage.start(stage.ports[0])
    leader.work(START + 4 * MINUTE, *machines, *held, *whose)
    leader.work(START + 10 * MINUTE)
    named = {f"{row.name}_total" if row.type == "counter" else row.name for row in money_table.ROWS}
    stage.prometheus.wait(NAMED, lambda found: {name for (name,) in found} == named)
    exposition = leader.figures.exposition
    assert exposition is not None
    for name, family, number, unit in (
        ("cost_usd", rollups.JOBS, "cost", DOLLAR),
        ("list_cost_usd", rollups.JOBS, "list_cost", DOLLAR),
        ("gpu_seconds", rollups.JOBS, "gpu_micros", SECOND),
        ("model_cost_usd", rollups.MODELS, "cost", DOLLAR),
        ("node_cost_usd", rollups.NODES, "cost", DOLLAR),
    ):
        total = sum(getattr(one, number) for one in exposition.families[family])
        assert total > 0
        stage.prometheus.wait(
            f"sum(trainingjob_{name}_total)",
            lambda found, total=total / unit: found == {(): pytest.approx(total)},  # type: ignore[misc]
        )
    # Nobody knows the price of the rare one: its job has no cost, which is not 0, and is told of.
    for name, jobs in (("trainingjob_job_cost_usd", "pq"), ("trainingjob_unpriced", "r")):
        stage.prometheus.wait(
            f"max by (trainingjob) ({name})",
            lambda found, jobs=jobs: {job for (job,) in found} == set(jobs),  # type: ignore[misc]
        )


def test_the_page_is_as_prometheus_wants_names_to_be(stage: Stage) -> None:
    leader = stage.start(stage.ports[0])
    machine = node("a")
    held = pod("p", "j", machine, started=START + MINUTE)
    leader.work(START + 4 * MINUTE, machine, held, Attributed("uid-j", 0, attribution("j")))
    with urllib.request.urlopen(f"http://127.0.0.1:{stage.ports[0]}/metrics", timeout=60) as answer:
        page = answer.read().decode()
    # An hour of a node is a thing that is counted, and no time; and names are promises.
    counted = ("trainingjob_ledger_closed_node_hours_total", "trainingjob_ledger_held_back_node_hours")
    for text, known in ((page, counted), (generate_latest(Metrics().registry).decode(), ())):
        said = scraper.promtool("check", "metrics", stdin=text).stderr.splitlines()
        assert [line for line in said if line] == [
            f'{name} use base unit "seconds" instead of "hours"' for name in known
        ]
