"""docs/guide/survive.md: each step is taken from the page, run, killed, and run again."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from rig import DEADLINE
from test_six_lines import GANG, PYTHON, Runs, losses
from typer.testing import CliRunner

from mlenv_api.exitcodes import ExitCode
from mlenv_api.trainingjob import TrainingJobSpec
from mlenv_sdk.cli import app

if TYPE_CHECKING:
    from collections.abc import Mapping

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "survive.md"
BLOCK = re.compile(r"^```(\w+)(?: name=(\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(kind, name, text) for kind, name, text in BLOCK.findall(PAGE.read_text())]
STEPS = 4 * 313


def changed(code: str, diff: str) -> str:
    """The code after all hunks of a diff; each must fit in one place."""
    for hunk in re.split(r"^@@.*\n", diff, flags=re.MULTILINE)[1:]:
        lines = hunk.splitlines(keepends=True)
        before = "".join(line[1:] or line for line in lines if line[0] != "+")
        after = "".join(line[1:] or line for line in lines if line[0] != "-")
        assert code.count(before) == 1, f"the page's programs do not follow from each other:\n{before}"
        code = code.replace(before, after)
    return code


def programs() -> dict[str, str]:
    """The whole program after each step, by the step's name."""
    found: dict[str, str] = {}
    code = ""
    for kind, name, text in BLOCKS:
        if kind in {"python", "diff"}:
            code = found[name] = text if kind == "python" else changed(code, text)
    return found


PROGRAMS = programs()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[Any]]:
    """What the script prints that nobody changed, and what it ends with."""
    runs = Runs(tmp_path_factory.mktemp("plain") / "plain", PROGRAMS["plain"], PYTHON)
    return losses(runs.whole()), runs.weights


def test_step_1_a_killed_script_ends_as_the_plain_one_does(
    tmp_path: Path, plain: tuple[list[str], list[Any]]
) -> None:
    expected, weights = plain
    runs = Runs(tmp_path / "killed", PROGRAMS["killed"], PYTHON)
    first, rest = losses(runs.killed()), losses(runs.whole())
    assert len(first) < STEPS
    assert first == expected[: len(first)]
    assert rest == expected[-len(rest) :]
    assert 0 < len(rest) < STEPS
    assert runs.weights == weights


def test_step_2_a_killed_gang_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole = Runs(tmp_path / "whole", PROGRAMS["gang"], GANG)
    whole.whole()
    runs = Runs(tmp_path / "killed", PROGRAMS["gang"], GANG)
    process, log = runs.start(MLENV_FAILPOINTS="sealed=kill@0")
    assert process.wait(DEADLINE) != 0
    assert "SIGKILL" in log.read_text()
    assert "goes on from step" in runs.whole()
    assert runs.weights == whole.weights


def test_step_2_the_same_file_still_runs_alone(tmp_path: Path) -> None:
    alone = Runs(tmp_path / "alone", PROGRAMS["gang"], PYTHON)
    assert len(losses(alone.whole())) > 0


def test_steps_3_and_5_run_to_their_ends(tmp_path: Path) -> None:
    for name in ("job", "sane"):
        runs = Runs(tmp_path / name, PROGRAMS[name], GANG)
        runs.whole()
        assert list((tmp_path / name).rglob("net.pt"))


def often(code: str) -> str:
    """The last program with a pace that a test can wait for."""
    pace = "ml.Checkpoints(every_seconds=60, "
    assert code.count(pace) == 1
    return code.replace(pace, 'ml.Checkpoints(folder="kept", every_steps=100, ')


def test_step_5_what_is_not_sane_ends_the_attempt(tmp_path: Path) -> None:
    floor = '"accuracy": 0.3'
    assert PROGRAMS["sane"].count(floor) == 1
    fine = Runs(tmp_path / "fine", often(PROGRAMS["sane"]), PYTHON)
    fine.whole()
    mad = Runs(tmp_path / "mad", often(PROGRAMS["sane"]).replace(floor, '"accuracy": 1.1'), PYTHON)
    process, log = mad.start()
    assert process.wait(DEADLINE) == ExitCode.ROLL_BACK, log.read_text()
    assert "accuracy" in log.read_text()


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    return {**under, **over, "spec": {**under["spec"], **over["spec"]}}


def test_the_manifests_are_jobs() -> None:
    found = {name: yaml.safe_load(text) for kind, name, text in BLOCKS if kind == "yaml"}
    for raw in (found["job"], merged(found["job"], found["tracking"])):
        spec = TrainingJobSpec.model_validate(raw["spec"])
        written = spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
        assert raw["spec"].keys() == written.keys()
    assert raw["spec"]["tracking"]["wandb"]["apiKeySecretRef"] == {"name": "wandb", "key": "api-key"}


def test_the_commands_are_there_and_none_has_a_key_in_it() -> None:
    said = [line for kind, _, text in BLOCKS if kind == "console" for line in text.splitlines()]
    lines = [shlex.split(line.removeprefix("$ ")) for line in said]
    for words in lines:
        if words[0] == "mlenv":
            helped = CliRunner().invoke(app, [words[1], "--help"])
            assert helped.exit_code == 0, words
    assert {words[0] for words in lines} == {"python", "kubectl", "mlenv"}
    assert not any("--from-literal" in word for words in lines for word in words)
