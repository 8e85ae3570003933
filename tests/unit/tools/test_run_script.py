"""The POSIX script: finds Python and uv, asks before it installs, hands over."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
COREUTILS = ("dirname", "id", "rm", "mv", "mkdir", "cat", "sh", "ln")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The script alone, with an environment that only says how it was called."""
    root = tmp_path / "check out"  # a space in the path must do no harm
    (root / "tools").mkdir(parents=True)
    shutil.copy(ROOT / "run", root / "run")
    script(root / ".venv" / "bin" / "python", 'echo "handed over: $* yes=$MLENV_YES"')
    return root


def script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A PATH with the shell's own tools and nothing else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in COREUTILS:
        (folder / name).symlink_to(shutil.which(name) or name)
    return folder


def run(checkout: Path, tools: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {"PATH": str(tools), "HOME": str(checkout.parent / "home"), **env}
    command = [str(checkout / "run"), *words]
    nobody = subprocess.DEVNULL
    return subprocess.run(command, env=clean, capture_output=True, text=True, check=False, stdin=nobody)


def python(tools: Path) -> None:
    (tools / "python3").symlink_to(sys.executable)


def old_python(tools: Path) -> None:
    script(tools / "python3", "exit 1")


def uv(tools: Path, version: str = "0.13.0") -> None:
    script(tools / "uv", f'[ "$1" = --version ] && echo "uv {version}" || echo "uv $*" >&2')


def test_hands_over_to_the_environment(checkout: Path, tools: Path) -> None:
    python(tools)
    uv(tools)
    done = run(checkout, tools, "test", "--tier", "unit")
    assert done.stdout == f"handed over: {checkout}/tools/run.py test --tier unit yes=\n"
    assert "sync --quiet --locked" in done.stderr
    assert "--no-python-downloads" in done.stderr


@pytest.mark.parametrize(("words", "env"), [(("--yes",), {}), ((), {"CI": "true"})])
def test_consent_is_passed_on(
    checkout: Path, tools: Path, words: tuple[str, ...], env: dict[str, str]
) -> None:
    python(tools)
    uv(tools)
    assert run(checkout, tools, "demo", *words, **env).stdout.endswith("yes=1\n")


def test_a_newer_python_beside_an_old_one_is_found(checkout: Path, tools: Path) -> None:
    old_python(tools)
    (tools / "python3.11").symlink_to(sys.executable)
    uv(tools)
    assert run(checkout, tools, "help").returncode == 0


def test_without_python_and_without_consent_nothing_is_installed(checkout: Path, tools: Path) -> None:
    old_python(tools)
    script(tools / "apt-get", "echo must not run; exit 9")
    done = run(checkout, tools, "demo")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("run: Python 3.11 or newer is missing.")
    assert "apt-get install python3" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="asks for the right to install only as root")
def test_with_consent_python_is_installed(checkout: Path, tools: Path) -> None:
    old_python(tools)
    uv(tools)
    script(tools / "apt-get", f'[ "$1" = install ] && ln -sf {sys.executable} {tools}/python3; exit 0')
    done = run(checkout, tools, "demo", "--yes")
    assert done.stdout.startswith("handed over: ")


def test_without_a_package_manager_it_says_what_to_install(checkout: Path, tools: Path) -> None:
    old_python(tools)
    done = run(checkout, tools, "demo", "--yes")
    assert done.returncode == 2
    assert "with your package manager" in done.stderr


def test_an_old_uv_is_not_used(checkout: Path, tools: Path) -> None:
    python(tools)
    uv(tools, "0.4.30")
    home = checkout.parent / "home" / ".cache" / "mlenv"
    pinned = next(line for line in (ROOT / "run").read_text().splitlines() if line.startswith("UV_VERSION="))
    script(home / f"uv-{pinned.removeprefix('UV_VERSION=')}" / "bin" / "uv", 'echo "pinned $*" >&2')
    assert "pinned sync" in run(checkout, tools, "help").stderr


def test_a_sync_that_fails_ends_it(checkout: Path, tools: Path) -> None:
    python(tools)
    script(tools / "uv", '[ "$1" = --version ] && echo "uv 1.0.0" || exit 1')
    done = run(checkout, tools, "help")
    assert done.returncode == 2
    assert "could not bring the environment up to date" in done.stderr


def test_the_pinned_uv_is_the_one_of_the_images() -> None:
    pinned = next(line for line in (ROOT / "run").read_text().splitlines() if line.startswith("UV_VERSION="))
    assert f"ARG {pinned}" in (ROOT / "Dockerfile").read_text()
