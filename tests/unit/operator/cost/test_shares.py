from fractions import Fraction

import pytest
from cost_facts import node, pod

from mlenv_operator.cost.facts import Node, Pod
from mlenv_operator.cost.shares import AWS_SPLIT, GPU_DOMINANT, Policy, Weights, parse_policy

GIB = 1 << 30
BIG = node(gpus=8, cpu_milli=192_000, memory_bytes=2048 * GIB)
SMALL = node(gpus=0, cpu_milli=4_000, memory_bytes=16 * GIB)


def share(policy: Policy, at: Node, held: Pod) -> float:
    return policy.weight(at, held) / policy.whole(at)


def test_devices_decide_and_the_rest_rides_along() -> None:
    assert share(GPU_DOMINANT, BIG, pod("a", gpus=3, cpu_milli=190_000)) == 3 / 8
    assert share(GPU_DOMINANT, BIG, pod("a", gpus=0, cpu_milli=190_000)) == 0


def test_without_devices_the_larger_share_decides() -> None:
    assert share(GPU_DOMINANT, SMALL, pod("a", gpus=0, cpu_milli=1000, memory_bytes=12 * GIB)) == 3 / 4
    assert share(GPU_DOMINANT, SMALL, pod("a", gpus=0, cpu_milli=2000, memory_bytes=GIB)) == 1 / 2


def test_a_capacity_that_is_not_known_counts_for_nothing() -> None:
    half_known = node(gpus=0, cpu_milli=4000, memory_bytes=0)
    assert share(GPU_DOMINANT, half_known, pod("a", gpus=0, cpu_milli=1000, memory_bytes=12 * GIB)) == 1 / 4
    for policy in (GPU_DOMINANT, AWS_SPLIT):
        assert share(policy, node(gpus=0), pod("a", gpus=2, cpu_milli=1000, memory_bytes=GIB)) == 0


def test_weights_split_as_the_cloud_does() -> None:
    gpus_only = pod("a", gpus=8)
    assert Fraction(AWS_SPLIT.weight(BIG, gpus_only), AWS_SPLIT.whole(BIG)) == Fraction(720, 4496)
    assert AWS_SPLIT.weight(BIG, pod("a", gpus=8, cpu_milli=192_000, memory_bytes=2048 * GIB)) == (
        AWS_SPLIT.whole(BIG)
    )


def test_a_policy_is_named_by_a_setting() -> None:
    assert parse_policy("gpu-dominant") is GPU_DOMINANT
    assert parse_policy("weights=9/0.9/0.1") == AWS_SPLIT
    assert parse_policy("weights=95/3/2") == Weights(95, 3, 2)


@pytest.mark.parametrize(
    "text", ["", "weights", "weights=0/0/0", "weights=1/2", "weights=-1/2/3", "dominant"]
)
def test_what_names_no_policy_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="Use gpu-dominant"):
        parse_policy(text)
