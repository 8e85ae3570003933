"""What git says of the folder that a job is submitted from: without a server, and never an error."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from mlenv_api.gitcode import ANNOTATIONS, NO_CODE, Code

if TYPE_CHECKING:
    from pathlib import Path

SECONDS: Final = 10.0
"""For one question: a work tree on a slow disk is not waited for."""
QUIET: Final = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
"""Nothing is locked, asked of a terminal, or translated."""


def recorded(manifest: dict[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """The manifest, annotated with what git says of `folder` (the current one), unless it says so itself."""
    metadata = manifest["metadata"]
    given = metadata.get("annotations") or {}
    if not isinstance(given, Mapping) or any(one in given for one in ANNOTATIONS):
        return manifest
    found = code(folder).annotations
    return {**manifest, "metadata": {**metadata, "annotations": {**given, **found}}} if found else manifest


def code(folder: Path | None = None) -> Code:
    """Commit, remote, branch, whether tracked files differ; nothing without a work tree, or git."""
    inside, _, commit = _git(folder, "rev-parse", "--is-inside-work-tree", "HEAD").partition("\n")
    if inside != "true" or not _git(folder, "ls-tree", "--name-only", "HEAD", "./"):
        return NO_CODE  # or the commit has nothing of this folder: it belongs to something else around it
    changed = _asked(folder, "status", "--porcelain", "--untracked-files=no")
    found = Code(
        commit=commit,
        remote=_remote(folder),
        branch=_git(folder, "symbolic-ref", "--quiet", "--short", "HEAD"),
        dirty=None if changed is None else bool(changed),
    )
    return Code.of(found.annotations)


def _remote(folder: Path | None) -> str:
    """That of origin, or else of the first one, as it is configured."""
    lines = _git(folder, "config", "--get-regexp", r"^remote\..*\.url$").splitlines()
    found = [line.partition(" ") for line in lines]
    urls = {name: url for name, _, url in reversed(found)}
    first = found[0][2] if found else ""
    return urls.get("remote.origin.url", first)


def _git(folder: Path | None, *words: str) -> str:
    return _asked(folder, *words) or ""


def _asked(folder: Path | None, *words: str) -> str | None:
    """What git prints; null where it fails, takes too long, or is not there."""
    try:
        done = subprocess.run(
            ["git", "-c", "core.fsmonitor=false", *words],
            cwd=folder,
            env={**os.environ, **QUIET},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
