"""Runs as the real client makes, resumes, rewinds, forks and ends them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from wandb_server import lose, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wandb_server import Client


def logged(run: Any) -> list[tuple[int, Any]]:
    return [(row["_step"], row["loss"]) for row in run.scan_history(page_size=7)]


def test_a_run_is_read_as_it_was_logged(sdk: Any, tmp_path: Path) -> None:
    settings = {"tags": ["a", "b"], "group": "g", "job_type": "train", "notes": "n", "name": "shown"}
    config = {"lr": 0.1, "model": {"layers": 3}}
    with sdk.init(project="life", id="whole", config=config, **settings) as run:
        for step in range(30):
            run.log({"loss": 1 / (step + 1), "odd": float("nan") if step % 2 else float("inf")})
        run.summary["best"] = 7
        (tmp_path / "notes.txt").write_text("kept")
        run.save(str(tmp_path / "notes.txt"), base_path=str(tmp_path))
    read = sdk.Api().run("ada/life/whole")
    assert (read.state, read.name, read.tags) == ("finished", "shown", ["a", "b"])
    assert (read.group, read.job_type, read.notes) == ("g", "train", "n")
    assert read.config == config
    assert (read.summary["best"], read.summary["_step"]) == (7, 29)
    assert logged(read) == [(step, 1 / (step + 1)) for step in range(30)]
    assert str(next(iter(read.scan_history()))["odd"]) == "inf"
    assert (read.user.username, read.entity, read.lastHistoryStep) == ("ada", "ada", 29)
    assert read.file("notes.txt").download(root=str(tmp_path / "got")).read() == "kept"


def test_a_scan_of_one_key_has_the_last_step_of_each_page_too(sdk: Any) -> None:
    with sdk.init(project="life", id="keys") as run:
        for step in range(25):
            run.log({"loss": step} | ({"rare": step} if step % 10 == 0 else {}))
    read = sdk.Api().run("ada/life/keys")
    assert [row["loss"] for row in read.scan_history(keys=["loss"], page_size=10)] == list(range(25))
    assert [row["rare"] for row in read.scan_history(keys=["rare"])] == [0, 10, 20]
    assert [row["_step"] for row in read.scan_history(min_step=5, max_step=9)] == [5, 6, 7, 8]
    assert [row["loss"] for row in read.history(samples=3, pandas=False)] == [0, 12, 24]
    assert [row["loss"] for row in read.history(samples=3, keys=["loss"], pandas=False)] == [0, 12, 24]


@pytest.mark.parametrize(("code", "state"), [(0, "finished"), (3, "failed")])
def test_the_exit_code_is_the_state(sdk: Any, code: int, state: str) -> None:
    run = sdk.init(project="life", id=f"exit-{code}")
    run.finish(exit_code=code)
    assert sdk.Api().run(f"ada/life/exit-{code}").state == state


def test_a_resumed_run_goes_on_counting_and_keeps_what_it_had(sdk: Any) -> None:
    with sdk.init(project="life", id="again", resume="allow", config={"lr": 1}, tags=["first"]) as run:
        assert not run.resumed
        for step in range(5):
            run.log({"loss": step})
    for _ in range(2):
        with sdk.init(project="life", id="again", resume="allow") as run:
            assert run.resumed
            assert sdk.Api().run("ada/life/again").state == "running"
            run.log({"loss": run.starting_step})
    read = sdk.Api().run("ada/life/again")
    assert logged(read) == [(step, step) for step in range(7)]
    assert (read.config, read.tags, read.state) == ({"lr": 1}, ["first"], "finished")


def test_steps_below_the_starting_step_are_dropped(sdk: Any) -> None:
    with sdk.init(project="life", id="below", resume="allow") as run:
        for step in range(5):
            run.log({"loss": step}, step=step)
    with sdk.init(project="life", id="below", resume="allow") as run:
        assert (run.step, run.starting_step) == (0, 5)
        run.log({"loss": "old"}, step=3)
        run.log({"loss": "new"}, step=5)
    assert logged(sdk.Api().run("ada/life/below")) == [*((step, step) for step in range(5)), (5, "new")]


def test_a_run_without_history_can_be_resumed(sdk: Any) -> None:
    sdk.init(project="life", id="empty", resume="allow").finish()
    with sdk.init(project="life", id="empty", resume="must") as run:
        run.log({"loss": 1})
    assert logged(sdk.Api().run("ada/life/empty")) == [(0, 1)]


def test_resume_must_needs_a_run_and_never_needs_none(sdk: Any) -> None:
    with pytest.raises(sdk.errors.UsageError, match="missing"):
        sdk.init(project="life", id="missing", resume="must")
    sdk.init(project="life", id="there").finish()
    with pytest.raises(sdk.errors.UsageError, match="there"):
        sdk.init(project="life", id="there", resume="never")


def test_a_rewound_run_has_only_what_came_after(sdk: Any) -> None:
    with sdk.init(project="life", id="rewound") as run:
        for step in range(10):
            run.log({"loss": step})
    with sdk.init(project="life", resume_from="rewound?_step=3") as run:
        assert run.starting_step == 4
        run.log({"loss": "anew"})
    read = sdk.Api().run("ada/life/rewound")
    assert logged(read) == [*((step, step) for step in range(4)), (4, "anew")]
    kinds = {one["type"]: one["count"] for one in read.history_keys["keys"]["loss"]["typeCounts"]}
    assert kinds == {"number": 4, "string": 1}


def test_a_fork_has_the_history_of_the_other_run_up_to_there(sdk: Any) -> None:
    with sdk.init(project="life", id="trunk") as run:
        for step in range(10):
            run.log({"loss": step})
    with sdk.init(project="life", id="branch", fork_from="trunk?_step=3") as run:
        run.log({"loss": "own"})
    with sdk.init(project="life", id="branch", resume="allow") as run:
        run.log({"loss": "more"})
    api = sdk.Api()
    assert logged(api.run("ada/life/branch")) == [*((n, n) for n in range(4)), (4, "own"), (5, "more")]
    assert len(logged(api.run("ada/life/trunk"))) == 10


def test_several_processes_may_write_to_one_run(sdk: Any, client: Client) -> None:
    """Each counts its lines from where it found the run; none replaces another's."""
    code = """
        settings = wandb.Settings(mode="shared", x_label=sys.argv[1], x_primary=sys.argv[1] == "0")
        with wandb.init(project="life", id="many", settings=settings) as run:
            tell("began")
            sys.stdin.readline()
            for step in range(5): run.log({"loss": step, f"of-{sys.argv[1]}": step})
    """
    processes = [client.start(code, str(rank), stdin=True) for rank in range(2)]
    for process in processes:
        assert "began" in process.stdout.readline()
    for process in processes:
        _, err = process.communicate("go\n", timeout=300)
        assert process.returncode == 0, err
    read = sdk.Api().run("ada/life/many")
    assert sorted(row["loss"] for row in read.scan_history(page_size=100)) == sorted([*range(5)] * 2)
    assert (read.summary["of-0"], read.summary["of-1"]) == (4, 4)


def test_console_lines_and_system_metrics_are_kept(client: Client) -> None:
    lines, last, metrics, latest = client.run(
        """
        import time
        with wandb.init(project="life", id="console", settings=wandb.Settings(console="wrap")):
            print("to out"); print("to err", file=sys.stderr)
            run = wandb.Api().run("ada/life/console")
            while not run.history(stream="system", pandas=False): time.sleep(0.05)
        run = wandb.Api().run("ada/life/console")
        lines = [[line.number, line.level, line.content] for line in run.console_logs()]
        metrics = run.history(stream="system", pandas=False)[-1]
        last = [line.content for line in run.console_logs(last=1)]
        tell([lines, last, list(metrics), list(run.system_metrics)])
        """,
        WANDB_CONSOLE="wrap",
        WANDB_X_DISABLE_STATS="false",
        WANDB_X_DISABLE_MACHINE_INFO="false",
        WANDB_X_STATS_SAMPLING_INTERVAL="0.1",
    )
    assert sorted(line[1:] for line in lines) == [["error", "to err"], ["info", "to out"]]
    assert [line[0] for line in lines] == [0, 1]
    assert last == [lines[-1][2]]
    assert "system.cpu" in metrics
    assert set(metrics) <= set(latest)


def test_a_run_is_told_to_stop(sdk: Any) -> None:
    run = sdk.init(project="life", id="stopped")
    told = stop_order(run)
    sdk.Api().run("ada/life/stopped").stop()
    wait_for(lambda: run.log({"loss": 1}) or told.is_set(), "the order to stop")
    run.finish(exit_code=255)
    assert sdk.Api().run("ada/life/stopped").state == "failed"
    with sdk.init(project="life", id="stopped", resume="must") as run:
        told = stop_order(run)
        run.log({"loss": 2})
    assert not told.is_set(), "an order is for the process that ran then"


def stop_order(run: Any) -> threading.Event:
    """Set by the client's own check for an order to stop, which otherwise asks every 15 s and interrupts."""
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib.run_stopping import RunStopChecker

    told = threading.Event()
    asyncer = wandb_setup.singleton().asyncer
    RunStopChecker(asyncer, run._interface, told.set, poll_interval=0.05).start()
    return told


def test_a_run_whose_process_is_lost_is_crashed_and_can_be_resumed(own: Callable[..., Any]) -> None:
    there = own(crashed_after=3.0)
    process = there.client.start("""
        import time
        run = wandb.init(project="p", id="lost", resume="allow")
        for step in range(20): run.log({"loss": step})
        while wandb.Api().run("ada/p/lost").lastHistoryStep < 19: time.sleep(0.05)
        tell("sent")
        time.sleep(600)
    """)
    assert process.stdout is not None
    assert "sent" in process.stdout.readline()
    lose(process)
    wait_for(lambda: there.run("ada/p/lost").state == "crashed", "the run to be called crashed")
    with there.init(project="p", id="lost", resume="must") as run:
        run.log({"loss": run.starting_step})
    read = there.run("ada/p/lost")
    assert (read.state, logged(read)) == ("finished", [(step, step) for step in range(21)])


def test_an_offline_run_is_synced_later(client: Client, sdk: Any) -> None:
    folder = client.run(
        """
        run = wandb.init(project="life", id="offline", config={"lr": 1})
        for step in range(10): run.log({"loss": step})
        run.finish()
        import subprocess
        from pathlib import Path
        folder = str(Path(run.dir).parent)
        env = {**os.environ, "WANDB_MODE": "online"}
        for _ in range(2):
            subprocess.run([sys.executable, "-m", "wandb", "sync", folder], env=env, check=True)
        tell(folder)
        """,
        WANDB_MODE="offline",
    )
    assert "offline-run" in folder
    read = sdk.Api().run("ada/life/offline")
    assert (logged(read), read.config, read.state) == ([(n, n) for n in range(10)], {"lr": 1}, "finished")
