"""PriceBooks: from the object to rows, or to the sentences that say why not; and what its status says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import ValidationError

from mlenv_api.conditions import ConditionType, Reason
from mlenv_api.pricebook import PriceBookSpec, PriceBookStatus
from mlenv_api.trainingjob import Condition
from mlenv_operator.cost.hardware import NOTHING, Hardware
from mlenv_operator.cost.moments import micros
from mlenv_operator.cost.pricefile import Finding, Placed, Severity, Sheet, Unreadable, price_of
from mlenv_operator.cost.pricelint import lint
from mlenv_operator.cost.prices import PriceRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime

    from mlenv_api.pricebook import Price
    from mlenv_operator.cost.facts import Micros

MOST_SAID: Final = 5
MAX_MESSAGE: Final = 2048


@dataclass(frozen=True, slots=True)
class BookView:
    """One version of a PriceBook, read and looked at."""

    name: str
    uid: str
    generation: int
    as_of: Micros = 0
    rows: tuple[PriceRow, ...] = ()
    errors: tuple[str, ...] = ()
    """Not empty: none of it may be used."""
    warnings: tuple[str, ...] = ()


def read_book(
    raw: Mapping[str, Any], hardware: Hardware = NOTHING, reference: Iterable[PriceRow] = ()
) -> BookView:
    """The view of a PriceBook; what cannot be read becomes errors, never an exception."""
    meta = raw["metadata"]
    name, uid, generation = meta["name"], meta["uid"], int(meta.get("generation") or 0)
    try:
        spec = PriceBookSpec.model_validate(raw.get("spec") or {})
    except ValidationError as error:
        return BookView(name, uid, generation, errors=tuple(_words(error)))
    sheet = _sheet(spec, name)
    found = lint(sheet, hardware, reference=reference)
    return BookView(
        name,
        uid,
        generation,
        as_of=micros(spec.as_of),
        rows=sheet.rows,
        errors=tuple(_said(found, Severity.ERROR)),
        warnings=tuple(_said(found, Severity.WARNING)),
    )


def status_of(
    view: BookView, used: BookView | None, before: PriceBookStatus, now: datetime
) -> PriceBookStatus:
    """What to write, when ``used`` is the version in use; the same as ``before`` when nothing is new."""
    refused = bool(view.errors)
    said = _refusal(view, used) if refused else _acceptance(view)
    reason = Reason.INVALID_SPEC if refused else Reason.PRICES_ACCEPTED
    old = {one.type: one for one in before.conditions}

    def condition(type_: ConditionType, *, holds: bool) -> Condition:
        status: Literal["True", "False"] = "True" if holds else "False"
        known = old.get(type_)
        since = known.last_transition_time if known and known.status == status else now
        return Condition(
            type=type_,
            status=status,
            observed_generation=view.generation,
            last_transition_time=since,
            reason=reason,
            message=said[:MAX_MESSAGE],
        )

    return PriceBookStatus(
        observed_generation=view.generation,
        accepted_generation=used.generation if used else 0,
        accepted_prices=len(used.rows) if used else 0,
        warnings=tuple(one[:MAX_MESSAGE] for one in view.warnings[:MOST_SAID]),
        conditions=(
            condition(ConditionType.READY, holds=not refused),
            condition(ConditionType.STALLED, holds=refused),
        ),
    )


def _acceptance(view: BookView) -> str:
    odd = f"; {len(view.warnings)} look odd, see status.warnings" if view.warnings else ""
    return f"{len(view.rows)} prices are in use{odd}. What was charged at another price stays as it is"


def _refusal(view: BookView, used: BookView | None) -> str:
    stands = (
        f"the {len(used.rows)} prices of generation {used.generation} stay in use"
        if used
        else "none of its prices is in use"
    )
    more = f" (and {len(view.errors) - MOST_SAID} more)" if len(view.errors) > MOST_SAID else ""
    return f"{stands}, because {'; '.join(view.errors[:MOST_SAID])}{more}. Correct the spec"


def _sheet(spec: PriceBookSpec, name: str) -> Sheet:
    placed: list[Placed] = []
    findings: list[Finding] = []
    for number, price in enumerate(spec.prices):
        where = f"spec.prices[{number}]"
        try:
            placed.append(Placed(where, _row(price, spec, name)))
        except Unreadable as error:
            findings.append(Finding(where, Severity.ERROR, error.rule, str(error)))
        except ValueError as error:
            findings.append(Finding(where, Severity.ERROR, "row", str(error)))
    return Sheet(tuple(placed), tuple(findings))


def _row(price: Price, spec: PriceBookSpec, name: str) -> PriceRow:
    paid, match = price_of(price.per_hour), price.match
    return PriceRow(
        provider=match.provider,
        region=match.region,
        zone=match.zone,
        instance_type=match.instance_type,
        capacity_type=match.capacity_type,
        reservation=match.reservation,
        since=micros(price.from_),
        until=micros(price.to) if price.to else None,
        list_nanos_per_hour=price_of(price.list_per_hour) if price.list_per_hour else paid,
        effective_nanos_per_hour=paid,
        source=f"PriceBook {name}: {spec.source}",
        as_of=micros(spec.as_of),
        priority=spec.priority,
    )


def _said(found: Iterable[Finding], severity: Severity) -> Iterator[str]:
    return (f"{one.where}: {one.message} [{one.rule}]" for one in found if one.severity is severity)


def _words(error: ValidationError) -> Iterator[str]:
    for one in error.errors(include_url=False, include_context=False, include_input=False):
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in one["loc"])
        yield f"spec{path}: {one['msg']}"
