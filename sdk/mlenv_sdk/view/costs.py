"""Costs as tables: rounded here, at the very end, so that what is shown adds up to the shown total."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from mlenv_sdk.costs import Amounts, Bill, Charge, Report
    from mlenv_sdk.estimates import Estimate, Machine

DOLLAR: Final = 10**9
HOUR: Final = 3_600_000_000
CENT: Final = DOLLAR // 100
FINE: Final = DOLLAR // 10_000
"""Sums below a dollar are shown to a hundredth of a cent."""
SHOWN: Final = 12
"""Machines of an estimate on a screen."""


def rounded(values: Sequence[int], unit: int) -> list[int]:
    """Each in whole units, up or down, so that they sum to the rounded sum: largest remainder first."""
    whole = [value // unit for value in values]
    total = sum(values)
    up, left = divmod(total, unit)
    missing = up + (2 * left > unit or (2 * left == unit and up % 2 == 1)) - sum(whole)
    order = sorted(range(len(values)), key=lambda place: (-(values[place] % unit), place))
    for place in order[:missing]:
        whole[place] += 1
    return whole


def dollars(units: int, unit: int) -> str:
    """As $1,234.56."""
    places = len(str(DOLLAR // unit)) - 1
    sign, size = ("-", -units) if units < 0 else ("", units)
    before, after = divmod(size, DOLLAR // unit)
    return f"{sign}${before:,}.{after:0{places}d}"


def _unit(total: int) -> int:
    return CENT if abs(total) >= DOLLAR else FINE


def _money(values: Sequence[int]) -> list[str]:
    """The values and, last, their sum."""
    unit = _unit(sum(values))
    cells = rounded(values, unit)
    return [dollars(one, unit) for one in (*cells, sum(cells))]


def _hours(values: Sequence[int]) -> list[str]:
    cells = rounded(values, HOUR // 10)
    return [f"{one / 10:,.1f}" for one in (*cells, sum(cells))]


def report(of: Report) -> RenderableType:
    """A line for each group, what the others are together, and the sum."""
    table = _table(*(name.upper().replace("_", " ") for name in of.by))
    rest = [of.rest] if of.rest_groups else []
    words = [list(key) for key, _ in of.groups]
    words += [[f"({of.rest_groups} more)", *[""] * (len(of.by) - 1)]] if of.rest_groups else []
    _rows(table, words, [*(one for _, one in of.groups), *rest], ["TOTAL", *[""] * (len(of.by) - 1)])
    return Group(table, Text(), Text(_about(of), "dim"))


def _about(of: Report) -> str:
    whose = "all namespaces" if of.namespaces is None else ", ".join(of.namespaces) or "no namespace"
    month = of.raw.get("billedMonth")
    when = f"billed in {month}" if month else f"{_minute(of.since)} to {_minute(of.until)}"
    settled = f"; closed hours, until {_minute(of.settled_until)}" if of.settled_until else ""
    return f"{whose}; {when} UTC{settled}"


def bill(of: Bill) -> RenderableType:
    """A job by category, so far, and what it costs an hour."""
    table = _table("CATEGORY")
    _rows(table, [[kind] for kind, _ in of.categories], [one for _, one in of.categories], ["TOTAL"])
    rate = dollars(rounded([of.rate], _unit(of.rate))[0], _unit(of.rate))
    lines = [f"{of.namespace}/{of.job} until {_minute(of.as_of)} UTC; {rate} an hour now"]
    if of.unpriced_micros:
        missing = _long(of.unpriced_micros // 1_000_000)
        lines.append(f"{missing} of its pods' time have no price: it cost more, or nobody knows what")
    if of.same_name:
        others = "another job" if len(of.same_name) == 1 else f"{len(of.same_name)} other jobs"
        lines.append(f"{others} had this name: --uid {' or '.join(of.same_name[:3])}")
    return Group(table, Text(), *(Text(line, "dim") for line in lines))


def explanation(charges: Sequence[Charge]) -> RenderableType:
    """A line for each charge: when, where, what for, at which price, and why."""
    table = _table("HOUR", "POD", "NODE", "CATEGORY", "ATTEMPT", "INTERVALS", "PRICE", "WHY")
    words = [
        [
            _minute(one.hour), one.pod, one.node, one.category, str(one.attempt), _intervals(one),
            one.price_id or "no price", _why(one),
        ]
        for one in charges
    ]  # fmt: skip
    _rows(table, words, [one.amounts for one in charges], ["TOTAL", *[""] * 7])
    return table


def estimate(of: Estimate) -> RenderableType:
    """The machines that a job fits, the cheapest first, and what is assumed."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    for column in ("", "MACHINE", "CAPACITY", "WHERE", "SHARE"):
        table.add_column(column, overflow="fold")
    table.add_column("AN HOUR", justify="right", no_wrap=True)
    shown = of.options[:SHOWN]
    if of.assumed is not None and of.assumed not in shown:
        shown = (*shown[:-1], of.assumed)
    for one in shown:
        cells = ("*" if one is of.assumed else "", *_machine(one), one.share, _said(one.rate))
        table.add_row(*(Text(cell) for cell in cells), style="bold" if one is of.assumed else "")
    more = len(of.options) - len(shown)
    lines = [f"({more} more: -o json)"] if more else []
    return Group(table, *(Text(line, "dim") for line in lines), Text(), *(Text(one) for one in _sums(of)))


def in_short(of: Estimate) -> str:
    """An estimate in one line: an hour of it, and what bounds it."""
    if of.assumed is None or of.rate is None:
        return f"What it will cost is unknown: {of.why.removeprefix('unknown: ')}."
    one = of.assumed
    kind = f"{one.instance_type or '(no type)'}{', spot' if one.capacity_type == 'spot' else ''}"
    where = kind if one.in_cluster else f"{kind}, of which the cluster has none now"
    return f"It will cost about {_said(of.rate)} an hour on {where}{_bounds(of)}."


def _bounds(of: Estimate) -> str:
    """What ends it first: its deadline, or the limit of its cost, of which it may spend a little more."""
    limit, last = of.limit, next((one for one in of.durations if one.what == "activeDeadlineSeconds"), None)
    after = None if limit is None or limit.on_exceeded == "Warn" else limit.reached_after
    if limit is not None and after is not None and (last is None or after < last.seconds):
        return f"; its limit, {_said(limit.amount)}, is reached after {_long(after)}"
    if last is not None:
        return f"; at most {_said(last.cost)} by its deadline, {_long(last.seconds)}"
    return ""


def _machine(one: Machine) -> tuple[str, str, str]:
    where = " ".join(part for part in (one.provider, one.region, one.reservation) if part)
    return one.instance_type or "(no type)", one.capacity_type or "-", where or "-"


def _sums(of: Estimate) -> list[str]:
    """What it comes to, and what bounds it."""
    pods = "1 pod" if of.pods == 1 else f"{of.pods} pods"
    what = f"{pods} with {of.gpus} GPUs each" if of.gpus else pods
    lines = [f"{what}: {_said(of.rate)} an hour ({of.why})."]
    for one in of.durations:
        said = "" if one.what == "asked" else f", the most that {one.what} allows"
        lines.append(f"{_long(one.seconds)}{said}: {_said(one.cost)}.")
    if of.limit is not None:
        lines.append(_limit(of))
    return [*lines, *(f"Note: {note}." for note in of.notes)]


def _limit(of: Estimate) -> str:
    limit = of.limit
    assert limit is not None
    after = "nobody knows when" if limit.reached_after is None else f"after {_long(limit.reached_after)}"
    then = {"Warn": "it only warns, and bounds nothing", "Suspend": "it is suspended", "Fail": "it fails"}
    return f"spec.cost.limit, {_said(limit.amount)}, is reached {after}: then {then[limit.on_exceeded]}."


def _said(nanos: int | None) -> str:
    """Rounded; what is unknown is said to be."""
    return "unknown" if nanos is None else _money([nanos])[0]


def _long(seconds: int) -> str:
    days, rest = divmod(seconds, 86400)
    parts = ((days, "d"), (rest // 3600, "h"), (rest % 3600 // 60, "min"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or f"{seconds} s"


def _why(one: Charge) -> str:
    return one.reason if not one.revision else f"correction {one.revision}: {one.reason}"


def _intervals(one: Charge) -> str:
    return " ".join(f"{begin[11:19]}-{end[11:19]}" for begin, end in one.intervals) or "-"


def _minute(text: str) -> str:
    return text[:16].replace("T", " ")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    for column in ("GPU-HOURS", "LIST", "COST"):
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _rows(
    table: Table, words: Sequence[Sequence[str]], amounts: Sequence[Amounts], last: Sequence[str]
) -> None:
    hours = _hours([one.gpu_micros for one in amounts])
    lists = _money([one.list_cost for one in amounts])
    costs = _money([one.cost for one in amounts])
    for line, *numbers in zip([*words, last], hours, lists, costs, strict=True):
        style = "bold" if line is last else ""
        # Text, so that brackets in names that users chose are no markup.
        table.add_row(*(Text(one) for one in (*line, *numbers)), style=style)
