"""The checks: what each looks at, its threshold, and the sentence that it says. Pure, no torch in it.

A check that cannot be made, because nothing of the kind was committed or there is no history yet, says
nothing. What is remembered between checkpoints is bounded, and starts anew with each attempt.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from mlenv_api.sanity import Check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mlenv_api.sanity import SanitySpec

CHECKS: Final = tuple(check.value for check in Check)
ENOUGH: Final = 4
"""Before so many checkpoints were sane, nothing is compared with how it was before."""
REMEMBERED: Final = 32
_FEW_ROWS: Final = 16
_NARROW: Final = 4
_FLAT: Final = 1e-6
"""Predictions whose deviation is less than this share of their size are all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sanity:
    """Which checks a Session makes of its checkpoints, and what they may find.

    All observe: what they find is said, and stands in the seal. The `armed` ones have a say: a checkpoint
    that one of them fails is written, and nothing goes on from it.
    """

    armed: tuple[str, ...] = ()
    """Names of checks, of `mlenv.sanity.rules.CHECKS`."""
    probe: Callable[[], Any] | None = None
    """What the models say of a batch that is always the same: predictions as a tensor, or one number. Called
    by all ranks before each checkpoint, without gradients, models in eval mode, generators put back."""
    probe_band: float = 0.5
    """So far, relative to the median of those before, may the probe's mean move."""
    loss_z: float = 10.0
    """Robust standard deviations above the recent median; of the committed `loss`, as last reported."""
    grad_norm_z: float = 10.0
    """The same of the committed `grad_norm`."""
    cosine: float = 0.95
    """A table's rows are alike from this mean cosine of pairs on."""
    rank_share: float = 0.1
    """A table has collapsed when it uses less than this share of its dimensions (or hardly more than one)."""
    dead_rows: float = 0.99
    """Share of a table's rows that are zero, or as they were at this attempt's first checkpoint."""
    label_rate_ratio: float = 1.5
    """How many times more, or less, than the median before the metric `label_rate` may be."""
    floors: Mapping[str, float] = field(default_factory=dict)
    """The least that metrics may be, as ``{"auc": 0.6}``."""
    calibration: tuple[float, float] = (0.8, 1.25)
    """Bounds of the metric `calibration`: the sum of predictions by the sum of labels."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.armed if name not in CHECKS]
        if unknown:
            raise ValueError(f"armed={self.armed!r}: a tuple of names among {', '.join(CHECKS)}")


_NUMBERS: Final = (
    "probe_band",
    "loss_z",
    "grad_norm_z",
    "cosine",
    "rank_share",
    "dead_rows",
    "label_rate_ratio",
)


def merged(own: Sanity | None, said: SanitySpec | None) -> Sanity | None:
    """The program's checks with those of its job's spec.

    What either arms is armed. A threshold is the program's where it has one other than the default, else
    the spec's; so it is with each metric's floor.
    """
    if said is None:
        return own
    base, plain = own or Sanity(), Sanity()
    numbers = {name: float(value) for name in _NUMBERS if (value := getattr(said, name)) is not None}
    found: dict[str, Any] = dict(numbers)
    if said.calibration is not None:
        found["calibration"] = (float(said.calibration.least), float(said.calibration.most))
    return replace(
        base,
        **{name: value for name, value in found.items() if getattr(base, name) == getattr(plain, name)},
        armed=tuple(dict.fromkeys((*base.armed, *(check.value for check in said.armed)))),
        floors={name: float(value) for name, value in said.floors.items()} | dict(base.floors),
    )


def unready(rules: Sanity) -> str:
    """Which armed checks can never find anything, because what they look at is not given; else nothing."""
    needs = {
        Check.PROBE: rules.probe is not None,
        Check.CONSTANT_PREDICTIONS: rules.probe is not None,
        Check.METRIC_FLOOR: bool(rules.floors),
    }
    blind = [name for name in rules.armed if not needs.get(Check(name), True)]
    if not blind:
        return ""
    return (
        f"armed, and with nothing to look at: {', '.join(blind)}. probe and constant_predictions need "
        "ml.Sanity(probe=...) in the program, metric_floor needs floors there or in spec.checkpoint.sanity"
    )


@dataclass(frozen=True, slots=True)
class Table:
    """What a sample of an embedding table's rows says."""

    name: str
    rows: int
    """In the sample."""
    dim: int
    filled: int
    """Of these, rows that are not zero."""
    cosine: float
    """Mean of all pairs of rows that are not zero."""
    rank: float
    """Effective rank: the exponential of the entropy of the shares of each direction."""
    zero: float
    """Share of rows that are zero."""
    still: float | None
    """Share of rows that are zero or as they were at first; None: this is the first look."""


@dataclass(frozen=True, slots=True)
class Probed:
    """What the probe said."""

    mean: float
    deviation: float | None = None
    """Of predictions; None: it gave one number."""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything that is known of one snapshot, of all ranks together."""

    metrics: Mapping[str, float]
    observed: Mapping[str, float] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    probed: Probed | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """One check that a checkpoint failed."""

    check: str
    armed: bool
    text: str

    def __str__(self) -> str:
        return f"{self.check}: {self.text}"


class Judge:
    """Makes the checks, and remembers what sane checkpoints were like."""

    def __init__(self, rules: Sanity) -> None:
        self._rules = rules
        self._past: dict[str, deque[float]] = {}

    def judge(self, seen: Seen) -> list[Verdict]:
        """What is wrong with it; nothing where all is well."""
        armed = self._rules.armed
        found = [Verdict(name, name in armed, text) for name, text in self._found(seen)]
        if not any(one.armed for one in found):
            self._remember(seen)
        return found

    def _found(self, seen: Seen) -> Iterator[tuple[str, str]]:
        yield from self._probe(seen.probed)
        yield from self._spikes(seen.observed)
        for table in seen.tables:
            yield from self._table(table)
        yield from self._metrics(seen.metrics)

    def _probe(self, probed: Probed | None) -> Iterator[tuple[str, str]]:
        if probed is None:
            return
        if probed.error:
            yield "probe", f"it raised {probed.error}"
            return
        if not math.isfinite(probed.mean):
            yield "probe", f"the models answer {probed.mean}"
            return
        if probed.deviation is not None and probed.deviation <= _FLAT * max(abs(probed.mean), _FLAT):
            yield "constant_predictions", f"the models answer {probed.mean:.4g} whatever they are asked"
        before = self._usual("probe")
        if before is not None and abs(probed.mean - before) > self._rules.probe_band * max(
            abs(before), _FLAT
        ):
            yield "probe", f"the answer to the same batch is {probed.mean:.4g}, and was {before:.4g}"

    def _spikes(self, observed: Mapping[str, float]) -> Iterator[tuple[str, str]]:
        for metric, most in (("loss", self._rules.loss_z), ("grad_norm", self._rules.grad_norm_z)):
            z = observed.get(f"{metric}_z", 0.0)
            if z > most:
                median = observed.get(f"{metric}_median", math.nan)
                yield f"{metric}_spike", f"{metric} is {z:.1f} deviations above its median {median:.4g}"

    def _table(self, table: Table) -> Iterator[tuple[str, str]]:
        rules = self._rules
        if table.filled >= _FEW_ROWS and table.dim >= _NARROW:
            least = max(1.2, rules.rank_share * table.dim)
            if table.cosine > rules.cosine:
                yield "embedding_collapse", f"rows of {table.name} are alike (mean cosine {table.cosine:.3f})"
            elif table.rank < least:
                yield (
                    "embedding_collapse",
                    f"{table.name} uses {table.rank:.1f} of {table.dim} dimensions",
                )
        share = table.still if table.still is not None else 0.0
        if table.rows >= _FEW_ROWS and share > rules.dead_rows:
            yield (
                "dead_rows",
                f"{share:.1%} of {table.name}'s rows never changed or are zero ({table.zero:.1%} are zero)",
            )

    def _metrics(self, metrics: Mapping[str, float]) -> Iterator[tuple[str, str]]:
        rules = self._rules
        rate, before = metrics.get("label_rate"), self._usual("label_rate")
        if rate is not None and before is not None and before > 0:
            ratio = rate / before
            if not 1 / rules.label_rate_ratio <= ratio <= rules.label_rate_ratio:
                yield "label_rate", f"{rate:.4g} of the labels are positive, where {before:.4g} were"
        for name, floor in rules.floors.items():
            if name in metrics and not metrics[name] >= floor:
                yield "metric_floor", f"{name} is {metrics[name]:.4g}, less than {floor:.4g}"
        bias, (least, most) = metrics.get("calibration"), rules.calibration
        if bias is not None and not least <= bias <= most:
            yield "calibration", f"predictions sum to {bias:.4g} of the labels, not {least:g} to {most:g}"

    def _usual(self, name: str) -> float | None:
        past = self._past.get(name, ())
        return statistics.median(past) if len(past) >= ENOUGH else None

    def _remember(self, seen: Seen) -> None:
        values = {"label_rate": seen.metrics.get("label_rate")}
        if seen.probed is not None and not seen.probed.error:
            values["probe"] = seen.probed.mean
        for name, value in values.items():
            if value is not None and math.isfinite(value):
                self._past.setdefault(name, deque(maxlen=REMEMBERED)).append(value)
