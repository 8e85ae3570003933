"""The arithmetic of ``benchmarks/recovery.py``, with numbers that were added up by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from standstill.events import Event, Tail, parse, recovered, started_after, steady
from standstill.figures import (
    IN_PLACE,
    PHASES,
    REPLACED,
    TORCHRUN,
    Outcome,
    figures,
    line,
    phases,
    quantile,
    schedule,
    table,
)
from standstill.ours import FREE_KILLS, manifest, stamped
from standstill.processes import cpu_groups, of_container, outer_number
from standstill.torchrun import commands

from mlenv_api.trainingjob import TrainingJobSpec

PROGRAM = {"started": 13.0, "imported": 15.0, "connected": 15.5, "built": 16.0, "stepped": 16.25}
IN_PLACE_MOMENTS = {"detected": 10.25, "decided": 10.5, "formed": 12.5, **PROGRAM}


def outcome(kind: str = IN_PLACE, seconds: float | None = None, **more: float) -> Outcome:
    moments = {**IN_PLACE_MOMENTS, "ended": 10.5, "created": 11.0, "launched": 12.0, **more}
    if seconds is not None:
        moments["stepped"] = 10.0 + seconds
    return Outcome(kind, 0, 10.0, moments, load=0.5)


def process(name: str, rank: int, began: float, steps: int = 1, *, late: float = 0.0) -> list[Event]:
    said = [Event("started", began + 0.1, name, rank, 7, began, began - 1)]
    for number, what in enumerate(("imported", "connected", "built", *["step"] * steps), start=1):
        said.append(Event(what, began + number + late, name, rank, 7))
    return said


def test_phases_add_up_to_the_whole() -> None:
    found = phases(outcome())
    assert found == {
        "detect": 0.25,
        "decide": 0.25,
        "gather": 2.0,
        "start": 0.5,
        "import": 2.0,
        "connect": 0.5,
        "build": 0.5,
        "first_step": 0.25,
    }
    for kind in PHASES:
        assert sum(phases(outcome(kind)).values()) == outcome(kind).seconds == 6.25


def test_a_moment_that_seems_to_be_too_early_makes_no_phase_negative() -> None:
    found = phases(outcome(decided=10.125))
    assert (found["detect"], found["decide"], found["gather"]) == (0.25, 0.0, 2.25)
    assert sum(found.values()) == 6.25


@pytest.mark.parametrize(
    ("values", "q", "wanted"),
    [
        ([3.0], 0.95, 3.0),
        ([4.0, 1.0, 2.0], 0.5, 2.0),
        ([1.0, 2.0, 3.0, 4.0], 0.5, 2.5),
        ([0.0, 10.0], 0.95, 9.5),
    ],
)
def test_a_quantile_lies_between_its_neighbours(values: list[float], q: float, wanted: float) -> None:
    assert quantile(values, q) == wanted


def test_there_is_no_quantile_of_nothing() -> None:
    with pytest.raises(ValueError, match="no values"):
        quantile([], 0.5)


def test_the_last_line_has_the_quantiles_and_the_ratio_of_medians() -> None:
    ours = [outcome(seconds=seconds) for seconds in (7.0, 8.0, 9.0)]
    found = figures([*ours, outcome(REPLACED, seconds=16.0), outcome(TORCHRUN, seconds=4.0)], {TORCHRUN: 3})
    assert (found["in_place_p50_s"], found["in_place_p95_s"], found["in_place_max_s"]) == (8.0, 8.9, 9.0)
    assert found["replaced_pod_p50_s"] == found["replaced_pod_p95_s"] == 16.0
    assert (found["torchrun_p50_s"], found["torchrun_over_in_place"]) == (4.0, 0.5)
    assert found["torchrun_over_replaced_pod"] == 0.25
    assert (found["kills"], found["in_place_kills"], found["torchrun_kills"]) == (5, 3, 1)
    assert found["in_place_gather_p50_s"] == 2.0
    assert found["torchrun_stuck"] == 3
    assert found["load_p50"] == 0.5
    assert json.loads(json.dumps(found)) == found


def test_without_torchrun_there_is_no_ratio() -> None:
    assert not [name for name in figures([outcome()], {}) if "over" in name]


def test_the_table_has_a_line_for_each_phase_and_explains_it() -> None:
    text = table([outcome(), outcome(seconds=7.25)])
    assert "in_place (2 kills)" in text
    assert ["kill", "to", "first", "committed", "step", "6.75", "7.20", "7.25"] in [
        row.split() for row in text.splitlines()
    ]
    for name, _ in PHASES[IN_PLACE]:
        assert sum(row.split()[0] == name for row in text.splitlines() if row.strip()) == 2
    assert "create" not in text, "a phase that none of these kinds has"


def test_a_kill_is_told_in_one_line() -> None:
    said = line(Outcome(TORCHRUN, 1, 10.0, PROGRAM, 2, 3.14))
    assert said.startswith("torchrun           rank 1:   6.25 s = start 3.00  import 2.00")
    assert said.endswith("first_step 0.25  [load 3.1]  (2 processes started in vain)")
    assert "\n" not in said


def test_blocks_of_all_kinds_are_spread_over_the_run() -> None:
    order = schedule({IN_PLACE: 20, REPLACED: 5, TORCHRUN: 8, "none": 0}, 2)
    assert {kind for kind, _ in order} == {IN_PLACE, REPLACED, TORCHRUN}
    assert sum(count for kind, count in order if kind == IN_PLACE) == 20
    assert sum(count for kind, count in order if kind == REPLACED) == 5
    assert max(count for _, count in order) == 2
    for kind in (IN_PLACE, REPLACED, TORCHRUN):
        places = [number for number, (one, _) in enumerate(order) if one == kind]
        middle = sum(places) / len(places) / (len(order) - 1)
        assert 0.4 < middle < 0.6, f"{kind} at {places}"


def test_a_torn_or_foreign_line_is_no_event(tmp_path: Path) -> None:
    raw = {"what": "step", "time": 1.5, "process": "a", "rank": 1, "pid": 7}
    whole = json.dumps(raw).encode()
    assert parse(whole) == Event("step", 1.5, "a", 1, 7)
    for bad in (b"", b"warning", whole[:-5], b"[]", b'{"what": "step"}'):
        assert parse(bad) is None
    tail = Tail(tmp_path / "events")
    assert tail.look() == []
    tail.path.write_bytes(whole + b"\n" + whole[:10])
    assert len(tail.look()) == 1
    with tail.path.open("ab") as file:
        file.write(whole[10:] + b"\n")
    assert tail.look() == [Event("step", 1.5, "a", 1, 7)] * 2


def test_the_world_is_back_when_its_last_rank_has_stepped() -> None:
    old = process("old0", 0, 1.0, 500) + process("old1", 1, 1.0, 500)
    new = process("new0", 0, 20.0) + process("new1", 1, 21.0, late=0.5)
    assert recovered(old, 10.0, 2) is None
    assert recovered(old + new[:-1], 10.0, 2) is None
    back = recovered(old + new, 10.0, 2)
    assert back is not None
    assert back.moments == {
        "started": 21.0,
        "imported": 22.5,
        "connected": 23.5,
        "built": 24.5,
        "stepped": 25.5,
    }
    assert back.launchers == (19.0, 20.0)
    assert back.false_starts == 0


def test_what_a_dying_world_still_commits_is_no_recovery() -> None:
    dying = [Event("step", 10.1 + number, f"old{number}", number, 7) for number in (0, 1)]
    old = process("old0", 0, 1.0) + process("old1", 1, 1.0)
    assert recovered(old + dying, 10.0, 2) is None
    assert started_after(old + dying, 10.0) == {}


def test_a_start_in_vain_is_counted_and_not_measured() -> None:
    vain = process("vain0", 0, 11.0, 0) + process("vain1", 1, 11.5, 0)
    new = process("new0", 0, 20.0) + process("new1", 1, 20.0)
    back = recovered(vain + new, 10.0, 2)
    assert back is not None
    assert (back.started, back.false_starts) == (20.0, 2)


def test_training_is_steady_when_every_rank_has_stepped_often() -> None:
    events = process("a", 0, 1.0, 3) + process("b", 1, 1.0, 2)
    assert steady(events, 0.0, 2, 3) is None
    events.append(Event("step", 9.0, "b", 1, 7))
    found = steady(events, 0.0, 2, 3)
    assert found is not None
    assert {rank: event.process for rank, event in found.items()} == {0: "a", 1: "b"}
    assert steady(events, 5.0, 2, 3) is None, "these began before"


def test_moments_of_a_log_are_those_of_the_container_runtime() -> None:
    line = "2026-01-02T03:04:05.123456789Z [mlenv] attempt 1: rank 0 failed with SIGKILL"
    ((at, text),) = stamped(iter([line]))
    assert at == pytest.approx(1767323045.123456)
    assert text == "[mlenv] attempt 1: rank 0 failed with SIGKILL"


def test_processes_of_a_container_are_found_by_their_cgroup(tmp_path: Path) -> None:
    for number, (container, inner) in {11: ("abc", 1), 12: ("abc", 30), 13: ("xyz", 30)}.items():
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "cgroup").write_text(f"4:cpu:/node-1/kubepods/pod1/{container}\n")
        (folder / "status").write_text(f"Name:\tpython\nNSpid:\t{number}\t5{inner}\t{inner}\nThreads:\t1\n")
    (tmp_path / "self").mkdir()
    (tmp_path / "14").mkdir()
    found = of_container("abc", tmp_path)
    assert found == {11: 1, 12: 30}
    assert outer_number(found, 30) == 12
    with pytest.raises(SystemExit, match="process 99 of the container"):
        outer_number(found, 99)


@pytest.mark.parametrize("version", [1, 2])
def test_torchrun_runs_beside_the_nodes(tmp_path: Path, version: int) -> None:
    root = tmp_path / "cpu" if version == 1 else tmp_path
    (root / "mlenv" / "some").mkdir(parents=True)
    for _ in range(2):
        found = cpu_groups(Path("mlenv/some"), 2, tmp_path)
        assert found == [root / "mlenv" / "some" / name for name in ("bench-0", "bench-1")]
    assert all(one.is_dir() for one in found)


def test_the_job_is_valid_and_its_pods_stand_apart(tmp_path: Path) -> None:
    spec = TrainingJobSpec.model_validate(manifest("r1", tmp_path, {"OMP_NUM_THREADS": "1"})["spec"])
    assert spec.trainer.num_nodes == 2
    assert {one.name: one.value for one in spec.trainer.env}["OMP_NUM_THREADS"] == "1"
    assert spec.failure_policy.max_restarts >= FREE_KILLS
    assert spec.pod_template_overrides.spec.affinity is not None


def test_torchrun_gets_the_same_program_and_as_many_ranks(tmp_path: Path) -> None:
    two = commands(TORCHRUN, tmp_path / "program.py", 1234)
    one = commands("torchrun_one_agent", tmp_path / "program.py", 1234)
    assert [argv[-3] for argv in two] == ["--node-rank=0", "--node-rank=1"]
    assert "--nproc-per-node=2" in one[0]
    assert len(one) == 1
    assert {argv[-1] for argv in two + one} == {"--plain"}
