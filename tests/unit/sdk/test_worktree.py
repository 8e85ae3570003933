"""What is told of the folder that a job is submitted from: real repositories, by the real git."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from tests.unit.sdk.conftest import Answer, job

from mlenv_api.gitcode import NO_CODE
from mlenv_sdk import worktree

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.sdk.conftest import Server

    from mlenv_sdk import Client

GIT = "mlenv.io/git-"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One with a commit, a branch and a remote that has a password; it is the current folder."""
    for name, value in {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    home = tmp_path / "ranker"
    home.mkdir()
    git(home, "init", "--quiet", "--initial-branch=wide")
    git(home, "config", "user.name", "Ada")
    git(home, "config", "user.email", "ada@example.com")
    git(home, "remote", "add", "fork", "https://git.example/ada/ranker.git")
    git(home, "remote", "add", "origin", "https://ada:s3cret@git.example/ads/ranker.git")
    (home / "train.py").write_text("print(1)\n")
    git(home, "add", "train.py")
    git(home, "commit", "--quiet", "--message=first")
    monkeypatch.chdir(home)
    return home


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_commit_remote_branch_and_that_nothing_was_changed(repository: Path) -> None:
    assert worktree.code()._asdict() == {
        "commit": git(repository, "rev-parse", "HEAD"),
        "remote": "https://git.example/ads/ranker.git",
        "branch": "wide",
        "dirty": False,
    }


def test_a_tracked_file_that_was_changed_is_told_and_others_are_not(repository: Path) -> None:
    (repository / "job.yaml").write_text("new")
    assert worktree.code().dirty is False
    (repository / "train.py").write_text("print(2)\n")
    assert worktree.code().dirty is True


def test_a_head_without_branch_and_a_repository_without_origin(repository: Path) -> None:
    git(repository, "checkout", "--quiet", "--detach")
    git(repository, "remote", "remove", "origin")
    found = worktree.code()
    assert (found.branch, found.remote) == ("", "https://git.example/ada/ranker.git")
    git(repository, "remote", "remove", "fork")
    assert worktree.code().remote == ""


def test_a_folder_within_counts_once_the_commit_has_something_of_it(repository: Path) -> None:
    inner = repository / "jobs"
    inner.mkdir()
    assert worktree.code(inner) == NO_CODE, "it may be anything that lies in somebody's home"
    (inner / "job.yaml").write_text("{}")
    git(repository, "add", "jobs")
    git(repository, "commit", "--quiet", "--message=second")
    assert worktree.code(inner).commit == git(repository, "rev-parse", "HEAD")


def test_no_work_tree_no_commit_and_no_git_are_no_error(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty, bare = tmp_path / "empty", tmp_path / "bare"
    empty.mkdir()
    assert worktree.code(empty) == NO_CODE
    git(empty, "init", "--quiet")
    assert worktree.code(empty) == NO_CODE
    git(tmp_path, "clone", "--quiet", "--bare", str(repository), str(bare))
    assert worktree.code(bare) == NO_CODE
    assert worktree.code(tmp_path / "gone") == NO_CODE
    assert worktree.code(repository) != NO_CODE
    monkeypatch.setenv("PATH", str(tmp_path))
    assert worktree.code(repository) == NO_CODE


@pytest.mark.usefixtures("repository")
def test_submit_annotates_the_job_when_it_is_asked_to(client: Client, server: Server) -> None:
    server.script = lambda _: Answer(job(), 201)
    manifest = {"metadata": {"name": "ranker", "annotations": {"note": "mine"}}, "spec": {}}
    client.submit(manifest)
    assert server.requests[-1].body["metadata"]["annotations"] == {"note": "mine"}
    client.submit(manifest, git=True)
    said = server.requests[-1].body["metadata"]["annotations"]
    assert said == {
        "note": "mine",
        f"{GIT}commit": worktree.code().commit,
        f"{GIT}remote": "https://git.example/ads/ranker.git",
        f"{GIT}branch": "wide",
        f"{GIT}dirty": "false",
    }
    assert manifest["metadata"] == {"name": "ranker", "annotations": {"note": "mine"}}, "it is the caller's"


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize("given", [{f"{GIT}commit": "77aa77aa"}, {f"{GIT}dirty": ""}, "nonsense"])
def test_what_the_manifest_says_itself_is_left_alone(
    client: Client, server: Server, given: dict[str, str] | str
) -> None:
    server.answers(Answer(job(), 201))
    client.submit({"metadata": {"name": "ranker", "annotations": given}, "spec": {}}, git=True)
    assert server.requests[0].body["metadata"]["annotations"] == given
