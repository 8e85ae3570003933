"""An hour that goes on, measured once: until facts turn, it is what measuring anew would say."""

from cost_facts import MINUTE, T0, Trace, traces
from hypothesis import given, settings
from hypothesis import strategies as st

from mlenv_operator.cost.facts import HOUR, Micros
from mlenv_operator.cost.metering import Growth, growth, so_far
from mlenv_operator.cost.shares import AWS_SPLIT, GPU_DOMINANT, Weights

anything = traces(st.sampled_from([GPU_DOMINANT, AWS_SPLIT, Weights(0, 1, 3)]))


def rows(found: Growth, at: Micros) -> list[tuple[object, ...]]:
    """The rows of that moment, with their floors."""
    passed = at - found.since
    grown = (
        (one.key, *(base + each * passed for base, each in zip(one.base, one.each, strict=True)))
        for one in found.rows
    )
    whole = found.whole
    return sorted(
        (key, held, gpus, cost // whole, listed // whole) for key, held, gpus, cost, listed in grown if held
    )


@settings(max_examples=150, deadline=None)
@given(anything, st.integers(-MINUTE, HOUR + MINUTE), st.floats(0, 1))
def test_it_grows_as_if_it_were_measured_at_every_moment(trace: Trace, after: int, part: float) -> None:
    now = T0 + after
    facts = (trace.pods, trace.marks, trace.node_marks, trace.attributed, trace.segments, trace.policy)
    found = growth(T0, trace.node, *facts, now=now)
    assert found.since < found.until
    end = min(found.until, T0 + HOUR)
    for at in (found.since, found.since + int((end - found.since) * part), end):
        anew = so_far(T0, trace.node, *facts, until=at)
        told = [(row.key, row.held, row.gpu_micros, row.cost, row.list_cost) for row in anew.rows]
        assert rows(found, at) == told
        assert found.unpriced + found.unpriced_each * (at - found.since) == anew.unpriced


def test_an_hour_that_is_over_rests() -> None:
    @settings(max_examples=20, deadline=None)
    @given(anything)
    def check(trace: Trace) -> None:
        facts = (trace.pods, trace.marks, trace.node_marks, trace.attributed, trace.segments, trace.policy)
        found = growth(T0, trace.node, *facts, now=T0 + 3 * HOUR)
        assert found.until > T0 + 10_000 * HOUR
        assert not any(any(row.each) for row in found.rows)

    check()
