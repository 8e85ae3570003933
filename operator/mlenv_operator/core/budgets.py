"""Budgets: from the object and what the ledger says to a status, an event, and figures. They stop nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from pydantic import ValidationError

from mlenv_api.budget import BudgetSpec, BudgetStatus
from mlenv_api.conditions import ConditionType, Reason
from mlenv_api.trainingjob import Condition
from mlenv_operator.core.actions import Event
from mlenv_operator.core.text import clip
from mlenv_operator.cost.facts import DOLLAR, HOUR
from mlenv_operator.cost.moments import moment
from mlenv_operator.cost.money import format_dollars, parse_dollars

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from mlenv_operator.cost.budgets import MonthToDate, Spent
    from mlenv_operator.cost.facts import Micros, Nanos

ANY: Final = "__all__"
"""In metrics: of any team, or of any use case. No label's value begins like this."""
CENT: Final = DOLLAR // 100
MOST: Final = 10**9 * DOLLAR - CENT
"""What a status can say."""
MAX_MESSAGE: Final = 2048


@dataclass(frozen=True, slots=True)
class BudgetView:
    """One version of a Budget, as it was seen."""

    name: str
    uid: str
    generation: int
    spec: BudgetSpec | None
    """None: it cannot be read."""
    status: BudgetStatus
    error: str = ""


class Told(NamedTuple):
    """What the ledger says now."""

    month: MonthToDate | None
    problem: str = ""
    """Why it says nothing, or nothing of now."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A budget beside what was spent."""

    limit: Nanos
    spent: Spent
    forecast: Nanos

    @property
    def exceeded(self) -> bool:
        """The amount is spent; what has no price comes on top."""
        return self.spent.cost >= self.limit

    @property
    def will_be(self) -> bool:
        """It is, or will be more than that by the end of the month."""
        return self.exceeded or self.forecast > self.limit

    @property
    def percent(self) -> int:
        """Of the amount, rounded down."""
        return self.spent.cost * 100 // self.limit

    @property
    def known(self) -> bool:
        """Whether any of it has a price: unknown is not 0."""
        return self.spent.cost > 0 or not self.spent.unpriced


class Figure(NamedTuple):
    """What metrics show of the budgets of one team and use case."""

    team: str
    use_case: str
    limit: Nanos
    spent: Nanos | None
    """None: unknown."""
    forecast: Nanos | None


def read_budget(raw: Mapping[str, Any]) -> BudgetView:
    """The view of a Budget; what cannot be read becomes a sentence, never an exception."""
    meta = raw["metadata"]
    about = (meta["name"], meta["uid"], int(meta.get("generation") or 0))
    status = stored(raw)
    try:
        spec = BudgetSpec.model_validate(raw.get("spec") or {})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in ("spec", *first["loc"]))
        return BudgetView(*about, None, status, f"{where}: {first['msg']}")
    if not parse_dollars(spec.amount_usd):
        return BudgetView(*about, None, status, "spec.amountUSD: an amount is more than 0")
    return BudgetView(*about, spec, status)


def stored(raw: Mapping[str, Any]) -> BudgetStatus:
    """What stands there; what cannot be read is written anew."""
    try:
        return BudgetStatus.model_validate(raw.get("status") or {})
    except ValidationError:
        return BudgetStatus()


def standing(spec: BudgetSpec, month: MonthToDate) -> Standing:
    """How a budget stands."""
    spent = month.of(spec.team, spec.use_case)
    return Standing(parse_dollars(spec.amount_usd), spent, month.forecast(spent))


def status_of(view: BudgetView, told: Told, before: BudgetStatus, now: datetime) -> BudgetStatus:
    """What to write; `differs` says whether that is any news."""
    month = told.month
    found = standing(view.spec, month) if view.spec and month else None
    known = found if found and found.known else None
    return BudgetStatus(
        observed_generation=view.generation,
        month=month.month if month else before.month,
        as_of=_moment(month.as_of) if month else before.as_of,
        spent_usd=_dollars(known.spent.cost) if known else None,
        forecast_usd=_dollars(known.forecast) if known else None,
        percent=known.percent if known else None,
        crossed=_crossed(view, month, found, before),
        conditions=tuple(_conditions(view, told, found, before, now)),
    )


def differs(before: BudgetStatus, after: BudgetStatus) -> bool:
    """Whether anything but the moment is another."""
    return before.model_copy(update={"as_of": None}) != after.model_copy(update={"as_of": None})


def news(view: BudgetView, before: BudgetStatus, after: BudgetStatus) -> Event | None:
    """What the written status says that is worth an event: a threshold, once in each month."""
    new = set(after.crossed) - set(before.crossed if before.month == after.month else ())
    if not new or view.spec is None:
        return None
    highest = max(new)
    reason = Reason.BUDGET_EXCEEDED if highest >= 100 else Reason.BUDGET_THRESHOLD_REACHED
    said = f"{_whose(view.spec)} spent {after.spent_usd} of {view.spec.amount_usd} USD in {after.month}"
    message = f"{said}: {highest} % is reached. Nothing is stopped"
    return Event(reason, message, warning=highest >= 100)


def figures(views: Iterable[BudgetView], month: MonthToDate | None) -> tuple[Figure, ...]:
    """What metrics show. Of several budgets of the same team and use case the smallest counts."""
    found: dict[tuple[str, str], Figure] = {}
    for view in views:
        if view.spec is None:
            continue
        whose = (view.spec.team or ANY, view.spec.use_case or ANY)
        figure = _figure(whose, view.spec, month)
        if whose not in found or figure.limit < found[whose].limit:
            found[whose] = figure
    return tuple(found[whose] for whose in sorted(found))


def _figure(whose: tuple[str, str], spec: BudgetSpec, month: MonthToDate | None) -> Figure:
    if month is None:
        return Figure(*whose, parse_dollars(spec.amount_usd), None, None)
    found = standing(spec, month)
    known: tuple[Nanos | None, Nanos | None] = (None, None)
    if found.known:
        known = (found.spent.cost, found.forecast)
    return Figure(*whose, found.limit, *known)


def _crossed(
    view: BudgetView, month: MonthToDate | None, found: Standing | None, before: BudgetStatus
) -> tuple[int, ...]:
    """Thresholds that were reached, for the rest of the month: a correction takes none back, an edit may."""
    if month is None or found is None or view.spec is None:
        return before.crossed
    named = set(view.spec.alert_at_percent)
    reached = {one for one in named if one <= found.percent}
    if before.month != month.month or before.observed_generation != view.generation:
        return tuple(sorted(reached))
    return tuple(sorted(reached | (named & set(before.crossed))))


def _conditions(
    view: BudgetView, told: Told, found: Standing | None, before: BudgetStatus, now: datetime
) -> Iterable[Condition]:
    old = {one.type: one for one in before.conditions}
    for type_, (status, reason, message) in _said(view, told, found).items():
        known = old.get(type_)
        since = known.last_transition_time if known and known.status == status else now.replace(microsecond=0)
        yield Condition(
            type=type_,
            status=status,
            observed_generation=view.generation,
            last_transition_time=since,
            reason=reason,
            message=clip(message, MAX_MESSAGE),
        )


_Said = tuple[Literal["True", "False", "Unknown"], Reason, str]


def _said(view: BudgetView, told: Told, found: Standing | None) -> dict[ConditionType, _Said]:
    """Status, reason and sentence of each condition."""
    if view.spec is None:
        why = f"the budget cannot be read: {view.error}. Correct the spec"
        unread: _Said = ("Unknown", Reason.INVALID_SPEC, why)
        return {
            ConditionType.EXCEEDED: unread,
            ConditionType.FORECAST_EXCEEDED: unread,
            ConditionType.STALLED: ("True", Reason.INVALID_SPEC, why),
        }
    amount, month = f"{view.spec.amount_usd} USD", told.month.month if told.month else "this month"
    unknown: _Said = ("Unknown", Reason.SPENDING_UNKNOWN, f"nobody can tell: {_lacking(told, found)}")
    within: _Said = ("False", Reason.WITHIN_BUDGET, f"less than {amount} is spent in {month}")
    will_be_within: _Said = ("False", Reason.WITHIN_BUDGET, f"{_AS_LATELY}, {amount} will do in {month}")
    if _lacking(told, found):
        within = will_be_within = unknown
    if found and found.exceeded:
        within = ("True", Reason.BUDGET_EXCEEDED, f"{amount} is spent in {month}. {_HELP}")
    if found and found.will_be:
        more = f"{_AS_LATELY}, more than {amount} will be spent by the end of {month}. {_HELP}"
        will_be_within = ("True", Reason.BUDGET_FORECAST_EXCEEDED, more)
    return {ConditionType.EXCEEDED: within, ConditionType.FORECAST_EXCEEDED: will_be_within}


_AS_LATELY: Final = "if it goes on as in the last seven days"
_HELP: Final = (
    "Nothing is stopped, a budget informs: suspend or delete jobs to spend less, or raise spec.amountUSD"
)


def _lacking(told: Told, found: Standing | None) -> str:
    """Why nobody can say that it is less; empty when somebody can."""
    if told.problem or found is None:
        return told.problem or "the ledger has not been read yet"
    if not found.spent.unpriced:
        return ""
    hours = max(found.spent.unpriced * 10 // HOUR, 1) / 10
    return (
        f"{hours:,.1f} hours of pods in this month have no price, and what they cost is in no sum."
        " A PriceBook with the machine's price mends it"
    )


def _whose(spec: BudgetSpec) -> str:
    team = f"team {spec.team}" if spec.team else ""
    use_case = f"use case {spec.use_case}" if spec.use_case else ""
    return ", ".join(part for part in (team, use_case) if part)


def _dollars(nanos: Nanos) -> str:
    """Down to the cent: what is not spent yet is never shown as spent."""
    return format_dollars(max(min(nanos // CENT * CENT, MOST), -MOST))


def _moment(micros: Micros) -> datetime:
    return moment(micros).replace(microsecond=0)
