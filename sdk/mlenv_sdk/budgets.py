"""Budgets as the operator left them at the API server: money in whole nanodollars, None where unknown."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from mlenv_api.names import API_VERSION, BUDGETS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

BUDGETS_PATH: Final = f"/apis/{API_VERSION}/{BUDGETS}"
_DOLLAR: Final = Decimal(10**9)


@dataclass(frozen=True, slots=True)
class Budget:
    """A budget, and how it stands."""

    name: str
    team: str
    """Empty: any."""
    use_case: str
    amount: int
    month: str
    """As 2026-11; empty before the operator has looked."""
    as_of: str
    spent: int | None
    forecast: int | None
    """By the end of the month, if it goes on as in the last seven days."""
    percent: int | None
    exceeded: str
    """True, False or Unknown."""
    forecast_exceeded: str
    message: str
    """Why that is not known; else empty."""
    raw: dict[str, Any]

    @classmethod
    def from_server(cls, raw: Mapping[str, Any]) -> Budget:
        """From an object of the API server."""
        spec, status = raw["spec"], raw.get("status") or {}
        conditions = {one["type"]: one for one in status.get("conditions") or ()}
        exceeded = conditions.get("Exceeded", {})
        unknown = exceeded.get("status", "Unknown") == "Unknown"
        return cls(
            name=raw["metadata"]["name"],
            team=spec.get("team", ""),
            use_case=spec.get("useCase", ""),
            amount=_nanos(spec["amountUSD"]) or 0,
            month=status.get("month", ""),
            as_of=status.get("asOf", ""),
            spent=_nanos(status.get("spentUSD")),
            forecast=_nanos(status.get("forecastUSD")),
            percent=status.get("percent"),
            exceeded=exceeded.get("status", "Unknown"),
            forecast_exceeded=conditions.get("ForecastExceeded", {}).get("status", "Unknown"),
            message=exceeded.get("message", "the operator has not looked at it yet") if unknown else "",
            raw=_told(raw["metadata"]["name"], spec, status),
        )


def read_budgets(items: Iterable[Mapping[str, Any]]) -> tuple[Budget, ...]:
    """All of them, by name."""
    return tuple(sorted(map(Budget.from_server, items), key=lambda one: one.name))


def _told(name: str, spec: Mapping[str, Any], status: Mapping[str, Any]) -> dict[str, Any]:
    """For programs: what was asked for and what is known, without what only Kubernetes needs."""
    conditions = status.get("conditions") or ()
    said = {one["type"]: {key: one.get(key, "") for key in ("status", "message")} for one in conditions}
    known = {field: status[field] for field in _SHOWN if field in status}
    return {"name": name, **spec, **known, "conditions": said}


_SHOWN: Final = ("month", "asOf", "spentUSD", "forecastUSD", "percent", "crossed")


def _nanos(text: str | None) -> int | None:
    return None if text is None else int(Decimal(text) * _DOLLAR)
