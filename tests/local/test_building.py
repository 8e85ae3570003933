from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from rich.console import Console
from typer.testing import CliRunner

from mlenv_local import binaries
from mlenv_local.buildlog import BuildLog
from mlenv_local.cli import app
from mlenv_local.progress import Reporter, remaining
from mlenv_local.toolchain import is_new_enough
from mlenv_local.versions import KUBERNETES

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "enough"),
    [
        ("go version go1.26.8 linux/amd64", True),
        ("go version go1.27rc1 linux/amd64", True),
        ("go version go2.0 linux/amd64", True),
        ("go version go1.19.8 linux/amd64", False),
        ("gcc version 12", False),
    ],
)
def test_which_go_will_do(text: str, *, enough: bool) -> None:
    assert is_new_enough(text) is enough


def test_a_build_only_ever_moves_forward_and_ends_full() -> None:
    log = BuildLog(modules=2, programs=1)
    seen = [log.fraction]
    for line in ("go: downloading a v1", "go: downloading b v1", "go: downloading c v1"):
        log.read(line)
        seen.append(log.fraction)
    log.packages = 2
    for line in ("k8s.io/a", "k8s.io/b"):
        log.read(line)
        seen.append(log.fraction)
    log.read("", linked=1)
    seen.append(log.fraction)
    assert seen == sorted(seen)
    assert seen[0] == 0.0
    assert seen[-1] == pytest.approx(1.0)


def test_errors_of_the_compiler_are_kept_and_not_counted() -> None:
    log = BuildLog(modules=1, programs=1)
    log.read("a.go:1:2: undefined: x")
    assert log.fraction == 0.0
    assert list(log.last) == ["a.go:1:2: undefined: x"]


def test_an_estimate_is_given_once_there_is_a_pace() -> None:
    assert remaining(0.01, 5) == "estimating"
    assert remaining(0.5, 240) == "about 4 min left"
    assert remaining(0.9, 90) == "about 10 s left"


def test_the_version_of_the_sources_is_the_one_stamped_in() -> None:
    assert f"k8s.io/kubernetes {KUBERNETES}\n" in (binaries.CLUSTER.sources / "go.mod").read_text()
    assert f"gitVersion={KUBERNETES}" in binaries.linker_flags()


def test_programs_of_the_cache_are_used_without_building(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = binaries.programs_folder()
    assert folder.is_relative_to(tmp_path)
    folder.mkdir(parents=True)
    assert binaries.ensure_binaries(Reporter(Console(file=io.StringIO()))) == folder


def test_plain_lines_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    reporter = Reporter(Console(file=out))
    with reporter.step("Certificates"):
        assert out.getvalue() == ""
    with reporter.progress("Building") as progress:
        progress.advance(0.5, "x")
    assert out.getvalue().splitlines()[0].startswith("✓ Certificates")
    assert "Building" in out.getvalue().splitlines()[1]


@pytest.mark.parametrize("command", [["kubeconfig"], ["logs"]])
def test_a_cluster_that_is_not_there_is_a_sentence(command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "--name", "mlenv-t-none"])
    assert result.exit_code == 1
    assert "There is no local cluster 'mlenv-t-none': start it with `mlenv local up`." in result.stderr


def test_a_bad_name_is_a_sentence() -> None:
    result = CliRunner().invoke(app, ["status", "--name", "../etc"])
    assert result.exit_code == 1
    assert "cannot name a local cluster" in result.stderr
    assert "Traceback" not in result.output
