"""Budget: what a team or a use case means to spend in a month (spec), and how far it has come (status)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, ConfigDict, Field

from mlenv_api import cel
from mlenv_api.base import Model
from mlenv_api.fields import Balance, Dollars, keyed_by
from mlenv_api.trainingjob import Condition

LabelValue = Annotated[
    str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
]
Percent = Annotated[int, Field(ge=1, le=1000)]


class BudgetSpec(Model):
    """How much may be spent. A budget informs: it never stops a job; spec.cost of a TrainingJob does that."""

    model_config = ConfigDict(json_schema_extra=cel.BUDGET)

    team: LabelValue | None = None
    """Jobs with this value of the label mlenv.io/team, in all namespaces; any team unless set."""
    use_case: LabelValue | None = None
    """Jobs with this value of the label mlenv.io/use-case; any use case unless set."""
    amount_usd: Dollars = Field(alias="amountUSD")
    """In US dollars, as 50000 or 99.50; more than 0."""
    period: Literal["Month"] = "Month"
    """A calendar month, in UTC."""
    alert_at_percent: tuple[Percent, ...] = Field(
        default=(50, 80, 100), max_length=8, json_schema_extra={"x-kubernetes-list-type": "set"}
    )
    """An event is written when so much of the amount is spent: once each month, for each of these."""


class BudgetStatus(Model):
    """What was spent, as the ledger last said, and what it comes to by the end of the month."""

    observed_generation: int = -1
    """The metadata.generation that this status speaks of; -1 before the first look."""
    month: Annotated[str, Field(max_length=7)] = ""
    """Which month all this is of, as 2026-11."""
    as_of: AwareDatetime | None = None
    """Of which moment. It is written again only when something else here changes, at most once a minute."""
    spent_usd: Balance | None = Field(default=None, alias="spentUSD")
    """In this month so far, open hours and corrections included; absent while nobody knows."""
    forecast_usd: Balance | None = Field(default=None, alias="forecastUSD")
    """What it comes to by the end of the month, if it goes on as in the last seven days."""
    percent: int | None = None
    """Of the amount that is spent, rounded down."""
    crossed: tuple[Percent, ...] = Field(default=(), max_length=8)
    """Of alertAtPercent those that were reached in this month: no event is written of them again."""
    conditions: tuple[Condition, ...] = Field(default=(), max_length=16, json_schema_extra=keyed_by("type"))
    """Exceeded: the amount is spent. ForecastExceeded: by the end of the month it will be."""
