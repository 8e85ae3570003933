"""The command as users run it, against a server."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy as copy
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
import yaml
from tests.unit.sdk.conftest import JOBS, Answer, Request, Server, complete, failed, job

from mlenv_sdk import cli, plugins
from mlenv_sdk.plugins import add_commands

MLENV = Path(sys.executable).parent / "mlenv"
Mlenv = Callable[..., "Done"]


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def mlenv(
    kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Mlenv:
    """Runs the command in this process, which saves a second of imports each time."""
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)

    def run(*words: str, text: str = "") -> Done:
        monkeypatch.setattr("sys.argv", ["mlenv", *words])
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        monkeypatch.setattr(cli, "app", copy(cli.app))
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        return Done(int(end.value.code or 0), *capsys.readouterr())

    return run


def test_get_prints_a_table(mlenv: Mlenv, server: Server) -> None:
    server.answers(Answer({"items": [complete(), job("other")]}))
    done = mlenv("get")
    assert done.returncode == 0
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0] == ["NAME", "PHASE", "NODES", "ATTEMPT", "STEP", "AGE"]
    assert [row[:3] for row in rows[1:]] == [["ranker", "Complete", "2"], ["other", "Pending", "0/2"]]


def test_get_prints_yaml_and_json_that_can_be_read_again(mlenv: Mlenv, server: Server) -> None:
    server.script = lambda _: Answer(complete())
    as_yaml, as_json = mlenv("get", "ranker", "-o", "yaml"), mlenv("get", "ranker", "-o", "json")
    assert yaml.safe_load(as_yaml.stdout) == json.loads(as_json.stdout)
    assert json.loads(as_json.stdout)["metadata"]["uid"] == "uid-ranker"


def test_submit_reads_a_file_or_standard_input(mlenv: Mlenv, server: Server) -> None:
    server.script = lambda _: Answer(job(), 201)
    manifest = yaml.safe_dump({"kind": "TrainingJob", "metadata": {"name": "ranker"}, "spec": {"a": 1}})
    Path("job.yaml").write_text(manifest)
    assert "submitted to team" in mlenv("submit", "job.yaml").stdout
    assert "mlenv -n team watch ranker" in mlenv("submit", "-", text=manifest).stdout
    created = [request.body["spec"] for request in server.requests if request.path == JOBS]
    assert created == [{"a": 1}] * 2


def test_submit_says_which_commit_the_folder_is_of_unless_told_not_to(mlenv: Mlenv, server: Server) -> None:
    server.script = lambda _: Answer(job(), 201)
    manifest = yaml.safe_dump({"metadata": {"name": "ranker"}, "spec": {}})
    who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.com")
    Path("train.py").touch()
    for words in (("init", "--quiet"), ("add", "train.py"), (*who, "commit", "--quiet", "-m", "first")):
        subprocess.run(["git", *words], check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    assert mlenv("submit", "-", "--no-estimate", text=manifest).returncode == 0
    assert mlenv("submit", "-", "--no-estimate", "--no-git", text=manifest).returncode == 0
    told, silent = (request.body["metadata"] for request in server.requests)
    assert told["annotations"]["mlenv.io/git-commit"] == head.strip()
    assert silent == {"name": "ranker"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "is no YAML"),
        ("", "holds 0 objects"),
        ("a: 1\n---\nb: 2", "holds 2 objects"),
        ("- 1", "holds no object but a list"),
    ],
)
def test_submit_of_what_is_no_manifest(mlenv: Mlenv, text: str, words: str) -> None:
    assert_sentence(mlenv("submit", "-", text=text), words)


def test_errors_are_one_sentence_on_standard_error_and_exit_code_2(mlenv: Mlenv, server: Server) -> None:
    server.answers(Answer({"reason": "NotFound", "details": {"name": "x"}}, 404))
    assert_sentence(mlenv("get", "x"), 'There is no job "x".')
    assert_sentence(mlenv("submit", "none.yaml"), "none.yaml cannot be read: No such file")


def assert_sentence(done: Done, words: str) -> None:
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("mlenv: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr


@pytest.mark.parametrize(("end", "code", "words"), [(complete(), 0, "is complete"), (failed(), 1, "Rank 1")])
def test_watch_ends_with_the_job(
    mlenv: Mlenv, server: Server, end: dict[str, object], code: int, words: str
) -> None:
    loss = {"name": "loss", "value": "0.5"}
    progress = {"step": 7, "totalSteps": 10, "stepsPerSecond": "3.5", "metrics": [loss]}
    running = job(version=2, phase="Running", progress=progress, nodes={"desired": 2, "ready": 2})
    states = [job(), job(), running, running, end]
    said = {"metadata": {"uid": "e"}, "reason": "Started", "message": "All pods run.", "involvedObject": {}}

    def script(request: Request) -> Answer:
        if request.path.endswith("/ranker"):
            return Answer(states.pop(0) if len(states) > 1 else states[0])
        return Answer({"items": [said] if request.path.endswith("/events") else []})

    server.script = script
    done = mlenv("watch", "ranker")
    assert done.returncode == code, done.stderr
    assert "Running  nodes 2/2  step 7/10  steps/s 3.5  loss 0.5" in done.stdout
    assert done.stdout.count("Started: All pods run.") == 1
    assert words in done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("end", "words", "code"),
    [
        (complete(), (), 0),
        (failed(), (), 1),
        (complete(), ("--for", "Complete"), 0),
        (failed(), ("--for", "Complete"), 1),
        (job(), ("--timeout", "0"), 1),
    ],
)
def test_wait_tells_by_its_exit_code(
    mlenv: Mlenv, server: Server, end: dict[str, object], words: tuple[str, ...], code: int
) -> None:
    server.script = lambda _: Answer(end)
    assert mlenv("wait", "ranker", *words).returncode == code


def test_describe_tells_all(mlenv: Mlenv, server: Server) -> None:
    record = {
        "number": 1,
        "startTime": "2026-01-01T12:00:00Z",
        "endTime": "2026-01-01T12:01:00Z",
        "reason": "ProgramFailed",
        "message": "ValueError: no such column",
        "counted": True,
    }
    body = failed() | {"status": failed()["status"] | {"attempts": [record]}}
    other = {"reason": "Older", "message": "of another job", "involvedObject": {"uid": "other"}}
    mine = {"reason": "Started", "message": "attempt 1 runs", "involvedObject": {"uid": "uid-ranker"}}
    lists = {"events": [other, mine], "pods": []}

    def script(request: Request) -> Answer:
        last = request.path.rpartition("/")[2]
        return Answer(body if last == "ranker" else {"items": lists[last]})

    server.script = script
    text = mlenv("describe", "ranker").stdout
    assert "attempt 1 runs" in text
    assert "of another job" not in text
    for words in (
        "train.py --epochs 3",
        "ClusterTrainingEnvironment/torch",
        "ValueError: no such column",
        "1 min",
    ):
        assert words in text


def test_logs_are_printed_as_they_are(mlenv: Mlenv, server: Server) -> None:
    pod = {"metadata": {"name": "ranker-0-0", "annotations": {"mlenv.io/index": "0"}}, "status": {}}
    server.answers(Answer({"items": [pod]}), Answer(chunks=(b"[bold]loss[/bold] 0.5\n",)))
    assert mlenv("logs", "ranker").stdout == "[bold]loss[/bold] 0.5\n"


def test_suspend_resume_delete(mlenv: Mlenv, server: Server) -> None:
    gone = Answer({"reason": "NotFound", "details": {"name": "ranker"}}, 404)
    server.answers(Answer(job()), Answer(job()), Answer({}), gone)
    assert "will give up its pods" in mlenv("suspend", "ranker").stdout
    assert "goes on" in mlenv("resume", "ranker").stdout
    assert "is deleted" in mlenv("delete", "ranker").stdout


def test_checkpoint_says_which_one_was_sealed_or_why_none_was(mlenv: Mlenv, server: Server) -> None:
    orders: list[str] = []

    def sealed(request: Request) -> Answer:
        if request.method == "PATCH":
            orders.append(request.body["metadata"]["annotations"]["mlenv.io/checkpoint-requested-at"])
        at = orders[-1] if orders else ""
        made = {"sealed": {"step": 40, "attempt": 2, "digest": "a" * 64}}
        found = job(phase="Running", checkpoint={"request": {"requestedAt": at, **made}})
        found["metadata"]["annotations"] = {"mlenv.io/checkpoint-requested-at": at}
        return Answer(found)

    server.script = sealed
    done = mlenv("checkpoint", "ranker")
    assert (done.returncode, done.stdout) == (
        0,
        'The job "ranker" has a checkpoint of step 40, sealed by attempt 2.\n',
    )
    assert orders[0].endswith("Z")
    server.answers(Answer(failed()))
    done = mlenv("checkpoint", "ranker")
    assert (done.returncode, "takes no more checkpoints" in done.stderr) == (1, True)


def test_a_reader_that_left_is_no_error(kubeconfig: Path, server: Server) -> None:
    server.script = lambda _: Answer({"items": [job(f"job-{number}") for number in range(400)]})
    shell = f"{MLENV} --kubeconfig {kubeconfig} get | head -1"
    done = subprocess.run(shell, shell=True, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("NAME")
    assert done.stderr == ""


def test_version_needs_no_cluster_and_is_quick_to_import() -> None:
    code = "import sys; from mlenv_sdk import cli; sys.exit('kubernetes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    done = subprocess.run([MLENV, "version"], check=False, capture_output=True, text=True)
    assert done.stdout.startswith("mlenv 0.")


class FakePoint:
    """An entry point without a distribution."""

    dist = None

    def __init__(self, name: str, loaded: object) -> None:
        self.name, self.value, self._loaded = name, f"{name}:app", loaded
        self.loads = 0

    def load(self) -> object:
        self.loads += 1
        if isinstance(self._loaded, Exception):
            raise self._loaded
        return self._loaded


def run_with(points: list[FakePoint], *words: str) -> int:
    app = typer.Typer()
    app.command("own")(lambda: None)
    add_commands(app, words, points)  # type: ignore[arg-type]
    try:
        app(list(words), standalone_mode=True)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_only_the_plugin_that_is_named_is_loaded() -> None:
    good = typer.Typer()
    good.command("up")(lambda: None)
    points = [FakePoint("good", good), FakePoint("bad", RuntimeError("boom"))]
    assert run_with(points, "good", "up") == 0
    assert [point.loads for point in points] == [1, 0]
    assert run_with(points, "--help") == 0
    assert [point.loads for point in points] == [1, 0]


@pytest.mark.parametrize("loaded", [RuntimeError("boom"), object()])
def test_a_broken_plugin_says_so_in_one_line(capsys: pytest.CaptureFixture[str], loaded: object) -> None:
    assert run_with([FakePoint("bad", loaded)], "bad", "up", "--nodes", "3") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert run_with([FakePoint("bad", loaded)], "own") == 0


def test_the_group_of_entry_points_is_what_other_packages_use() -> None:
    assert plugins.GROUP == "mlenv.commands"
