"""Which programs a fork server can run, in which environment and memory. Pure, but for a look at PATH."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlenv_api import names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MEMORY_PER_PYTHON: Final = 512 * 1024 * 1024
"""What a Python with torch and torch._dynamo takes of its own, rounded up."""
PER_RANK: Final = frozenset(
    {
        "RANK",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        "GROUP_RANK",
        "GROUP_WORLD_SIZE",
        "NODE_RANK",
        "MASTER_ADDR",
        "MASTER_PORT",
        "TORCHELASTIC_USE_AGENT_STORE",
        "TORCHELASTIC_RESTART_COUNT",
        "TORCHELASTIC_RUN_ID",
        names.ENV_ATTEMPT,
        names.ENV_NODE_INDEX,
        names.ENV_NUM_NODES,
        names.ENV_NUM_PROC_PER_NODE,
        names.ENV_RUN_DIR,
        names.ENV_RESUME,
    }
)
"""Variables that nothing reads before a program runs; any other one may act when a process starts."""


@dataclass(frozen=True, slots=True)
class Program:
    """A Python program: a script, or a module."""

    argv: tuple[str, ...]
    """The whole command line, as a shell would give it."""
    script: str
    module: str
    """One of these two is empty."""
    args: tuple[str, ...]


def parse(argv: Sequence[str], env: Mapping[str, str], executable: str) -> Program | str:
    """The program, if a fork of `executable` can run it; else why it cannot."""
    if not _is_interpreter(argv[0], env, executable):
        return f"{argv[0]} is not {executable}, the Python of this launcher"
    rest = list(argv[1:])
    while rest[:1] == ["-u"] and env.get("PYTHONUNBUFFERED"):
        rest.pop(0)  # it is so already
    if rest[:1] == ["-m"] and len(rest) > 1:
        return Program(tuple(argv), "", rest[1], tuple(rest[2:]))
    if not rest or rest[0].startswith("-"):
        return f"Python's option {rest[0]} acts when Python starts" if rest else "no script is named"
    if not rest[0].endswith(".py"):
        return f"{rest[0]} is no .py file"
    return Program(tuple(argv), rest[0], "", tuple(rest[1:]))


def _is_interpreter(name: str, env: Mapping[str, str], executable: str) -> bool:
    found = shutil.which(name, path=env.get("PATH"))
    if found is None:
        return False
    # Every virtual environment links to the same file: the folder of the link says which one it is.
    same_folder = Path(found).parent.resolve() == Path(executable).parent.resolve()
    return same_folder and Path(found).resolve() == Path(executable).resolve()


def unlike(served: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """Why a process that started with the variables `served` is no good for a rank; empty if it is."""
    differ = {name for name in served.keys() | wanted.keys() if served.get(name) != wanted.get(name)}
    wrong = sorted(differ - PER_RANK)
    return f"{', '.join(wrong[:3])} may act when Python starts, and changed since then" if wrong else ""


def too_small(memory: int | None, procs: int) -> str:
    """Why a container with so many bytes has no room for a fork server beside its ranks and its store."""
    wanted = MEMORY_PER_PYTHON * (2 + procs)
    if memory is None or memory >= wanted:
        return ""
    return f"a memory limit of {memory >> 20} MiB is less than the {wanted >> 20} MiB that are safe with one"
