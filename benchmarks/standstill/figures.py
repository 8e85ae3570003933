"""From moments to phases, quantiles, a table and one JSON object. Pure."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

IN_PLACE: Final = "in_place"
REPLACED: Final = "replaced_pod"
TORCHRUN: Final = "torchrun"
ONE_AGENT: Final = "torchrun_one_agent"

_PROGRAM: Final = (
    ("start", "started"),
    ("import", "imported"),
    ("connect", "connected"),
    ("build", "built"),
    ("first_step", "stepped"),
)
PHASES: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    IN_PLACE: (("detect", "detected"), ("decide", "decided"), ("gather", "formed"), *_PROGRAM),
    REPLACED: (
        ("detect", "ended"),
        ("decide", "decided"),
        ("create", "created"),
        ("container", "launched"),
        ("gather", "formed"),
        *_PROGRAM,
    ),
    TORCHRUN: _PROGRAM,
    ONE_AGENT: _PROGRAM,
}
"""The phases of each kind in their order, with the moment that ends each."""
MEANING: Final = {
    "detect": "until the launcher (a replaced pod: the API server) says that it is dead",
    "decide": "until the next attempt is stored in the job's status",
    "create": "until the new pod exists",
    "container": "until the new pod's launcher is a process: scheduler, kubelet, runtime",
    "gather": "until all launchers wait, ranks of the old world gone, and the world is stored",
    "start": "until the last rank is a new process (torchrun: everything before)",
    "import": "until the last rank has imported torch (ours: and mlenv)",
    "connect": "until init_process_group has returned on the last rank",
    "build": "until the last rank has its model in DDP, and its optimizer",
    "first_step": "until every rank has committed a step",
}


@dataclass(frozen=True)
class Outcome:
    """One kill and what followed."""

    kind: str
    rank: int
    """The rank that was killed."""
    killed: float
    moments: Mapping[str, float]
    """When what was so, by the wall clock; ``stepped`` is the end."""
    false_starts: int = 0
    """Processes that were started in vain before a world came about."""
    load: float = 0.0
    """The machine's load average of the minute before the kill: what else wanted its cores."""
    notes: Mapping[str, float] = field(default_factory=dict)
    """More moments, for people who look for lost time."""

    @property
    def seconds(self) -> float:
        """From the kill to the first step that all ranks have committed."""
        return self.moments["stepped"] - self.killed


def phases(outcome: Outcome) -> dict[str, float]:
    """Seconds of each phase; they add up to the whole.

    Moments come from different places (a watch, a log, the program), so one may seem to be a little before
    the one that it follows: then its phase is 0, and the next is counted from the later of both.
    """
    found, last = {}, outcome.killed
    for name, moment in PHASES[outcome.kind]:
        at = max(last, outcome.moments[moment])
        found[name] = at - last
        last = at
    return found


def quantile(values: Sequence[float], q: float) -> float:
    """Linear between the two nearest values, as numpy does it."""
    if not values:
        raise ValueError("no values, no quantile")
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def by_kind(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Those of each kind, in the order of the table; kinds without any are not there."""
    found = defaultdict(list)
    for outcome in outcomes:
        found[outcome.kind].append(outcome)
    return {kind: found[kind] for kind in PHASES if kind in found}


def figures(outcomes: Sequence[Outcome], stuck: Mapping[str, int]) -> dict[str, float]:
    """The numbers of the last line; `stuck` counts the kills after which no world came, by kind."""
    found: dict[str, float] = {f"{kind}_stuck": count for kind, count in stuck.items()}
    for kind, some in by_kind(outcomes).items():
        seconds = [one.seconds for one in some]
        found[f"{kind}_kills"] = len(some)
        found[f"{kind}_p50_s"] = round(quantile(seconds, 0.5), 3)
        found[f"{kind}_p95_s"] = round(quantile(seconds, 0.95), 3)
        found[f"{kind}_max_s"] = round(max(seconds), 3)
        found[f"{kind}_false_starts"] = sum(one.false_starts for one in some)
        for name, _ in PHASES[kind]:
            spans = [phases(one)[name] for one in some]
            found[f"{kind}_{name}_p50_s"] = round(quantile(spans, 0.5), 3)
    found["kills"] = len(outcomes)
    found["load_p50"] = round(quantile([one.load for one in outcomes], 0.5), 2)
    for kind in (IN_PLACE, REPLACED):
        if f"{kind}_p50_s" in found and f"{TORCHRUN}_p50_s" in found:
            ratio = found[f"{TORCHRUN}_p50_s"] / found[f"{kind}_p50_s"]
            found[f"torchrun_over_{kind}"] = round(ratio, 2)
    return found


def table(outcomes: Sequence[Outcome]) -> str:
    """For people: a block for each kind, a line for each phase."""
    blocks = [_block(kind, some) for kind, some in by_kind(outcomes).items()]
    used = {name for one in outcomes for name, _ in PHASES[one.kind]}
    words = [f"  {name:<11} {text}" for name, text in MEANING.items() if name in used]
    return "\n".join([*blocks, "Phases, each from the end of the one before:", *words])


def _block(kind: str, some: Sequence[Outcome]) -> str:
    head = f"{kind + f' ({len(some)} kills)':<34}{'p50':>8}{'p95':>8}{'max':>8}"
    names = [name for name, _ in PHASES[kind]]
    rows = [_row(f"  {name}", [phases(one)[name] for one in some]) for name in names]
    return "\n".join([head, *rows, _row("  kill to first committed step", [one.seconds for one in some]), ""])


def _row(name: str, values: Sequence[float]) -> str:
    shown = (quantile(values, 0.5), quantile(values, 0.95), max(values))
    return f"{name:<34}" + "".join(f"{value:>8.2f}" for value in shown)


def line(outcome: Outcome) -> str:
    """One kill, as it is told while the benchmark runs."""
    parts = "  ".join(f"{name} {seconds:.2f}" for name, seconds in phases(outcome).items())
    after = f"  [load {outcome.load:.1f}]"
    if outcome.false_starts:
        after += f"  ({outcome.false_starts} processes started in vain)"
    return f"{outcome.kind:<18} rank {outcome.rank}: {outcome.seconds:6.2f} s = {parts}{after}"


def schedule(kills: Mapping[str, int], at_most: int) -> list[tuple[str, int]]:
    """Blocks of kills, so that all kinds are spread over the whole run and meet the same machine.

    Each block has at most so many kills; the kind that is furthest behind its share comes next.
    """
    blocks = {kind: _blocks(count, at_most) for kind, count in kills.items() if count > 0}
    done = dict.fromkeys(blocks, 0)
    order = []
    while any(done[kind] < len(blocks[kind]) for kind in blocks):
        kind = min(blocks, key=lambda kind: (done[kind] + 0.5) / len(blocks[kind]))
        order.append((kind, blocks[kind][done[kind]]))
        done[kind] += 1
    return order


def _blocks(count: int, at_most: int) -> list[int]:
    whole, rest = divmod(count, at_most)
    return [at_most] * whole + [rest] * (rest > 0)
