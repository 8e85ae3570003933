"""What several facts say of one pod or node, as one: in the core, in the queue and in the database alike."""

from __future__ import annotations

import itertools

import pytest
from cost_facts import node, pod

from mlenv_operator.cost.facts import Node, Pod
from mlenv_operator.cost.merge import merged
from mlenv_operator.ledger.intake import NODE_FIELDS, POD_FIELDS, _join

TOLD = (
    pod("a", gpus=1, scheduled=5, started=None, finished=90, released=None),
    pod("a", gpus=2, scheduled=7, started=9, finished=80, released=100),
    pod("a", gpus=1, scheduled=0, started=0, finished=None, released=95, telemetry=True),
)


def test_times_are_the_earlier_and_all_else_the_larger() -> None:
    one, two, three = TOLD
    whole = pod("a", gpus=2, scheduled=5, started=9, finished=80, released=95, telemetry=True)
    assert merged(merged(one, two), three) == whole
    assert merged(node(created=4, deleted=None), node(created=9, deleted=7)) == node(created=4, deleted=7)


@pytest.mark.parametrize("order", list(itertools.permutations(TOLD)))
def test_the_order_does_not_matter(order: tuple[Pod, ...]) -> None:
    one, two, three = order
    assert (
        merged(merged(one, two), three) == merged(one, merged(two, three)) == merged(three, merged(two, one))
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *itertools.permutations(TOLD, 2),
        (node(created=4, gpus=2, deleted=None), node(created=9, name="z", deleted=7)),
        (node(created=0), node(created=9, zone="b")),
    ],
)
def test_the_database_says_the_same(one: Pod | Node, other: Pod | Node) -> None:
    fields = POD_FIELDS if isinstance(one, Pod) else NODE_FIELDS
    plain = [name for name in fields if not name.endswith("_id")]  # uids are numbers there
    row = {name: getattr(one, name) for name in plain}
    _join(row, {name: getattr(other, name) for name in plain})
    assert row == {name: getattr(merged(one, other), name) for name in plain}
