"""PriceBook: what machines cost, as the platform team says it (spec), and whether it is used (status)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AwareDatetime, ConfigDict, Field

from mlenv_api import cel
from mlenv_api.base import Model
from mlenv_api.fields import Dollars, Sentence, keyed_by
from mlenv_api.trainingjob import Condition

MAX_PRICES = 1000

Word = Annotated[str, Field(max_length=128)]


class CapacityType(StrEnum):
    """How a machine was bought. A closed set: dashboards and contracts name its members."""

    ON_DEMAND = "on-demand"
    """By the second, at the list price."""
    SPOT = "spot"
    """Cheaper, and taken away at any time."""
    RESERVED = "reserved"
    """Under a reservation."""
    SAVINGS_PLAN = "savings-plan"
    """Under a commitment to spend."""
    CAPACITY_BLOCK = "capacity-block"
    """Bought as a whole for a window of days; the price was fixed then."""
    ON_PREM = "on-prem"
    """The company's own."""


class PriceMatch(Model):
    """Which machines a price is for. What is left out matches any."""

    model_config = ConfigDict(json_schema_extra=cel.PRICE_MATCH)

    provider: Annotated[str, Field(min_length=1, max_length=63)]
    """As the nodes' providerID says it, in lower case: aws, gcp, azure; on-prem where there is none."""
    region: Word = ""
    """As us-east-1."""
    zone: Word = ""
    """As us-east-1a; needs a region."""
    instance_type: Annotated[str, Field(min_length=1, max_length=128)]
    """As p5.48xlarge: the label node.kubernetes.io/instance-type."""
    capacity_type: CapacityType = CapacityType.ON_DEMAND
    """on-demand, spot, reserved, savings-plan, capacity-block or on-prem."""
    reservation: Word = ""
    """Id of a reservation; a capacity block needs it, because its price was fixed when it was bought."""


class Price(Model):
    """What such a machine costs from a moment on."""

    model_config = ConfigDict(json_schema_extra=cel.PRICE)

    match: PriceMatch
    """Which machines."""
    per_hour: Dollars
    """What is paid for one machine and hour, in US dollars; more than 0."""
    list_per_hour: Dollars | None = None
    """What it would cost on demand; as perHour unless set."""
    from_: AwareDatetime = Field(alias="from")
    """From this moment on, until a later price of the same match."""
    to: AwareDatetime | None = None
    """The end, where there is one: after it the machine has no price by this row."""


class PriceBookSpec(Model):
    """Prices of machines, over those that the operator ships."""

    currency: Literal["USD"] = "USD"
    """US dollars; sums of several currencies mean nothing."""
    source: Annotated[str, Field(min_length=1, max_length=1024)]
    """For people: where the prices come from, as an invoice, a contract or a price list."""
    as_of: AwareDatetime
    """When the prices were true. The age of the book counts from here, and an old one raises an alert."""
    priority: int = Field(default=100, ge=1, le=1000)
    """Of rows that match a node equally narrowly the higher priority wins."""
    prices: tuple[Price, ...] = Field(default=(), max_length=MAX_PRICES)
    """The prices. A reservation is narrower than a zone, a zone than a region, a region than a provider."""


class PriceBookStatus(Model):
    """Whether the prices are used."""

    observed_generation: int = -1
    """The metadata.generation that this status speaks of; -1 before the first look."""
    accepted_generation: int = Field(default=0, ge=0)
    """The metadata.generation whose prices are in use; 0: none is."""
    accepted_prices: int = Field(default=0, ge=0, le=MAX_PRICES)
    """How many prices are in use."""
    warnings: tuple[Sentence, ...] = Field(default=(), max_length=16)
    """What looks odd, and is used all the same."""
    conditions: tuple[Condition, ...] = Field(default=(), max_length=16, json_schema_extra=keyed_by("type"))
    """Ready: in use as written. Stalled: refused; what was accepted before stays in use."""
