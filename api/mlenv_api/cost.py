"""Money of a TrainingJob: the limit that a user sets (spec), and what the ledger says of it (status)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AwareDatetime, ConfigDict, Field

from mlenv_api import cel
from mlenv_api.base import Model
from mlenv_api.fields import Dollars, Sentence


class CostAction(StrEnum):
    """What happens once a job has cost as much as its limit."""

    WARN = "Warn"
    """A condition and an event; training goes on."""
    SUSPEND = "Suspend"
    """Ranks save and end, and all pods are released, until the limit is raised or removed."""
    FAIL = "Fail"
    """The job fails for good."""


class CostSpec(Model):
    """How much the job may cost."""

    model_config = ConfigDict(json_schema_extra=cel.COST_LIMIT)

    limit: Dollars
    """As 500 or 99.50; more than 0. All attempts of the job count."""
    currency: Literal["USD"] = "USD"
    """US dollars, as price books have them."""
    on_exceeded: CostAction
    """Warn, Suspend or Fail."""


class CostStatus(Model):
    """What the job cost, as the ledger last said. `mlenv cost JOB` has it of now, with every charge."""

    amount: Dollars | None = None
    """So far. Absent where no part of it has a known price: unknown is not 0."""
    currency: Literal["USD"] = "USD"
    """Of all amounts."""
    rate_per_hour: Dollars | None = None
    """What an hour costs with what it holds; absent while part of that has no price."""
    by_category: dict[Annotated[str, Field(max_length=63)], Dollars] = Field(default={}, max_length=32)
    """The amount by what it went to: productive, startup, lost_work and so on."""
    estimated_total: Dollars | None = None
    """Amount at progress.estimatedCompletionTime, at the rate of now: rates change, and restarts come."""
    as_of: AwareDatetime
    """Of which moment all this is."""
    final: bool = False
    """Whether the job holds nothing any more and all that it held is counted. Corrections may still come."""
    message: Sentence = ""
    """Why the amount is not the whole, or not known."""
