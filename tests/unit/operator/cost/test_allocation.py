from fractions import Fraction

from cost_facts import T0, Trace, node, pod, price
from hypothesis import given
from hypothesis import strategies as st

from mlenv_operator.cost.allocation import apportion, correction, round_half_even


def test_halves_go_to_the_even_number() -> None:
    assert [round_half_even(n, 2) for n in (1, 3, 5, 7, -1, -3)] == [0, 2, 2, 4, 0, -2]
    assert round_half_even(5, 3) == 2


def test_what_is_left_goes_to_the_largest_remainders_and_then_to_the_first() -> None:
    assert apportion([100, 100, 100], 3) == [34, 33, 33]
    assert apportion([10, 17, 3], 10) == [1, 2, 0]
    assert apportion([5, 5], 10) == [1, 0]
    assert apportion([5], 10) == [0]
    assert apportion([15], 10) == [2]
    assert apportion([], 10) == []


@given(st.lists(st.integers(0, 10**30), max_size=20), st.integers(1, 10**15))
def test_parts_are_within_one_of_their_share_and_add_up_to_the_rounded_sum(
    numerators: list[int], denominator: int
) -> None:
    parts = apportion(numerators, denominator)
    assert sum(parts) == round(Fraction(sum(numerators), denominator))
    for part, numerator in zip(parts, numerators, strict=True):
        assert abs(part - Fraction(numerator, denominator)) < 1
        assert part >= numerator // denominator


def test_a_correction_is_the_difference_by_rows() -> None:
    before = Trace(node(), (pod("a", gpus=4),), segments=(price(8),)).close()
    after = Trace(node(), (pod("a", gpus=4), pod("b", gpus=4)), segments=(price(8),)).close()
    change = correction(before, after)
    assert [(row.pod_uid, row.use, row.cost, row.gpu_micros // 3_600_000_000) for row in change.rows] == [
        ("", "fragmented", -4_000_000_000, -4),
        ("b", None, 4_000_000_000, 4),
    ]
    assert change.total == 0
    assert correction(after, after).rows == ()


def test_a_correction_of_a_price_leaves_its_own_rows() -> None:
    before = Trace(node(), (pod("a", gpus=8),), segments=(price(8),)).close()
    after = Trace(node(), (pod("a", gpus=8),), segments=(price(6, id_="p2"),)).close()
    change = correction(before, after)
    assert [(row.price_id, row.held // 3_600_000_000, row.cost // 10**9) for row in change.rows] == [
        ("p1", -1, -8),
        ("p2", 1, 6),
    ]
    assert change.total == -2_000_000_000
    assert correction(before, Trace(node(created=T0 + 10**15)).close()).total == -before.total
