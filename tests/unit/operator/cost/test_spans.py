from collections.abc import Sequence

from cost_facts import MINUTE, T0, pod

from mlenv_operator.cost.facts import Attributed, Attribution, Category, Mark, Pod
from mlenv_operator.cost.spans import FOREVER, life, owners, sort_marks, spans, states

A, B = Attribution(team="a"), Attribution(team="b")


def mark(minute: int, category: Category, *, attempt: int = 1, sequence: int = 0) -> Mark:
    return Mark("a", T0 + minute * MINUTE, sequence, attempt, category)


def minutes(
    held: Pod,
    marks: Sequence[Mark] = (),
    attributed: Sequence[Attributed] = (),
    start: int = T0,
    end: int = T0 + 60 * MINUTE,
) -> list[tuple[int, int, int, str, str]]:
    """The spans as (from, to, attempt, category, team), in minutes of the hour."""
    said = sort_marks(marks)
    times = life(held, said)
    points = states(held, said, times)
    found = spans(points, owners(held, attributed), max(start, times.scheduled), min(end, times.released))
    return [
        (
            (one.t0 - T0) // MINUTE,
            (one.t1 - T0) // MINUTE,
            one.attempt,
            str(one.category),
            one.attribution.team,
        )
        for one in found
    ]


def at(minute: int) -> int:
    return T0 + minute * MINUTE


WHOLE = pod("a", scheduled=at(5), started=at(10), finished=at(40), released=at(45), telemetry=True)


def test_a_pod_without_marks_starts_and_drains() -> None:
    assert minutes(WHOLE) == [(5, 10, 0, "startup", ""), (10, 40, 0, "init", ""), (40, 45, 0, "drain", "")]


def test_without_telemetry_all_between_is_productive() -> None:
    quiet = pod("a", scheduled=at(5), started=at(10), finished=at(40), released=at(40))
    assert minutes(quiet) == [(5, 10, 0, "startup", ""), (10, 40, 0, "productive", "")]


def test_marks_say_what_the_time_was_and_of_which_attempt() -> None:
    said = [
        mark(20, Category.PRODUCTIVE),
        mark(30, Category.RECOVERY, attempt=2),
        mark(32, Category.PRODUCTIVE, attempt=2),
    ]
    assert minutes(WHOLE, said) == [
        (5, 10, 0, "startup", ""),
        (10, 20, 0, "init", ""),
        (20, 30, 1, "productive", ""),
        (30, 32, 2, "recovery", ""),
        (32, 40, 2, "productive", ""),
        (40, 45, 2, "drain", ""),
    ]


def test_of_marks_of_one_moment_the_last_one_holds() -> None:
    said = [mark(20, Category.EVAL, sequence=2), mark(20, Category.HANG, sequence=1)]
    assert minutes(WHOLE, said)[2] == (20, 40, 1, "eval", "")


def test_attempts_only_go_up() -> None:
    said = [
        mark(20, Category.RECOVERY, attempt=2),
        mark(20, Category.PRODUCTIVE, sequence=12),
        mark(25, Category.DATA_WAIT),
    ]
    assert minutes(WHOLE, said)[2:] == [(20, 40, 2, "recovery", ""), (40, 45, 2, "drain", "")]


def test_a_mark_from_before_the_start_holds_from_the_start_on() -> None:
    early = [mark(7, Category.PRODUCTIVE)]
    assert minutes(WHOLE, early) == [
        (5, 7, 0, "startup", ""),
        (7, 10, 1, "startup", ""),
        (10, 40, 1, "productive", ""),
        (40, 45, 1, "drain", ""),
    ]


def test_what_marks_say_after_the_end_is_still_drain() -> None:
    assert minutes(WHOLE, [mark(42, Category.PRODUCTIVE)])[-2:] == [
        (40, 42, 0, "drain", ""),
        (42, 45, 1, "drain", ""),
    ]


def test_times_out_of_order_are_clamped_into_the_pods_life_and_counted() -> None:
    wrong = pod("a", scheduled=at(5), started=at(3), finished=at(2), released=at(45), telemetry=True)
    assert minutes(wrong) == [(5, 45, 0, "drain", "")]
    assert life(wrong).moved == (at(5), at(5))
    late = pod("a", scheduled=at(5), started=at(10), finished=at(50), released=at(45))
    assert life(late).moved == (at(45) - 1,)
    gone = pod("a", scheduled=at(5), started=None, released=at(1))
    assert minutes(gone) == []
    assert life(gone).moved == (at(5),)


def test_marks_outside_the_life_are_clamped_and_counted_once_each() -> None:
    said = [mark(1, Category.EVAL), mark(1, Category.EVAL), mark(50, Category.HANG, sequence=3)]
    assert minutes(WHOLE, said)[1] == (10, 40, 1, "eval", "")
    assert life(WHOLE, sort_marks(said)).moved == (at(5), at(45) - 1)


def test_a_mark_stands_for_a_start_that_nobody_told() -> None:
    unseen = pod("a", scheduled=at(5), started=None)
    assert minutes(unseen) == [(5, 60, 0, "startup", "")]
    assert minutes(unseen, [mark(20, Category.EVAL)]) == [(5, 20, 0, "startup", ""), (20, 60, 1, "eval", "")]


def test_a_pod_that_never_started_only_starts_up_and_drains() -> None:
    never = pod("a", scheduled=at(5), started=None, finished=at(20), released=at(25))
    assert minutes(never) == [(5, 20, 0, "startup", ""), (20, 25, 0, "drain", "")]
    assert life(pod("a", started=None)).started == FOREVER


def test_attribution_splits_a_span_and_holds_before_the_first_word() -> None:
    told = [Attributed("job-a", at(30), B), Attributed("job-a", at(7), A)]
    assert minutes(WHOLE, (), told) == [
        (5, 10, 0, "startup", "a"),
        (10, 30, 0, "init", "a"),
        (30, 40, 0, "init", "b"),
        (40, 45, 0, "drain", "b"),
    ]


def test_where_nobody_told_whose_it_is_namespace_and_job_are_known() -> None:
    assert owners(pod("a"), ()).to == (Attribution(namespace="team-a", job_uid="job-a"),)


def test_spans_are_cut_to_the_hour() -> None:
    long = pod("a", scheduled=at(-90), started=at(-80), finished=at(70), released=at(70))
    assert minutes(long) == [(0, 60, 0, "productive", "")]
    assert minutes(long, start=at(60), end=at(120)) == [(60, 70, 0, "productive", "")]


def test_a_mark_that_stands_for_the_start_gives_way_to_the_end() -> None:
    """Else the hour before the mark would change once the mark is told, long after it was closed."""
    held = pod("a", scheduled=at(5), started=None, finished=at(20), released=at(60))
    assert minutes(held, [mark(30, Category.EVAL)]) == [
        (5, 20, 0, "startup", ""),
        (20, 30, 0, "drain", ""),
        (30, 60, 1, "drain", ""),
    ]
    assert life(held, [mark(30, Category.EVAL)]).moved == ()
