"""A ledger after a month of many jobs, made cheaply: sums are written as settling does, without facts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ledgers import START, attribution, node, pod

from mlenv_operator.cost.facts import DOLLAR, HOUR, SECOND, Attributed
from mlenv_operator.ledger import names, rollups
from mlenv_operator.ledger.calendar import month_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlenv_operator.cost.facts import Attribution, Fact, Node
    from mlenv_operator.ledger.ledger import Ledger

MACHINES: Final = tuple(
    node(
        f"{instance}-{capacity}", instance_type=instance, capacity_type=capacity, gpu_model=f"gpu-{instance}"
    )
    for instance in ("p5", "p4d", "g6", "g5")
    for capacity in ("on-demand", "spot", "reserved")
)
KINDS: Final = (1, 3, 11)
"""Startup, productive, drain."""


def who(number: int) -> Attribution:
    """To whom job `number` belongs. Every one has a model of its own: labels cannot be worse."""
    team = f"team{number % 50}"
    return attribution(f"job{number}", team, use_case=f"case{number % 250 // 50}", model=f"model{number}")


def spend(ledger: Ledger, first: int, last: int, hour: int) -> None:
    """Jobs from `first` on, before `last`, that were and are gone; all spent something in one closed hour."""
    with ledger.database.changing() as connection:
        machines = names.number_machines(connection, MACHINES)
        whose = names.number_attributions(connection, (who(number) for number in range(first, last)))
        sums = rollups.Batch()
        for number in range(first, last):
            machine = machines[names.machine_of(MACHINES[number * 7 % len(MACHINES)])]
            for kind in KINDS:
                place = rollups.Place(month_of(hour), hour, machine, whose[who(number)], kind)
                sums.add(place, (600 * SECOND, 1200 * SECOND, DOLLAR, DOLLAR), priced=True)
        rollups.write(connection, sums)


def live(jobs: int, now: int) -> Iterator[Fact]:
    """Jobs of two pods that run now, on nodes that four pods share."""
    machines: list[Node] = [node(f"live{number}", created=now - HOUR // 2) for number in range(jobs // 2)]
    yield from machines
    for number in range(jobs):
        yield Attributed(f"uid-live{number}", START, attribution(f"live{number}", f"team{number % 50}"))
        for index in range(2):
            on = machines[(2 * number + index) % len(machines)]
            name = f"live{number}-{index}"
            yield pod(name, f"live{number}", on, gpus=2, scheduled=now - HOUR // 3, started=now - HOUR // 4)
