"""Programs end only when gloo's threads have let go of what they hold of Python's.

What kills others now and then (see ``mlenv.leaving``) is a thread late by a whole shutdown. Here a callback
makes it late, or a thread of Python's own has the name of gloo's.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
import setproctitle
import torch
import torch.distributed as dist

from mlenv import leaving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PROGRAM = """
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
import torch
import torch.distributed as dist
import mlenv as ml

def form(rank):
    return dist.ProcessGroupGloo(store, rank, 2, timedelta(minutes=1))

def late(_):
    for i in range(3_000_000):
        pass
    print("let go", flush=True)

ml.init()
store = dist.HashStore()
with ThreadPoolExecutor(2) as pool:
    one, two = pool.map(form, range(2))
over = one.allreduce([torch.ones(1)]).get_future()
over.then(late)
two.allreduce([torch.ones(1)]).wait()
over.wait()
"""


@pytest.fixture
def over() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def gloo(body: Callable[[], object]) -> None:
    """A thread that looks like one of gloo's, and has begun."""
    began = threading.Event()

    def run() -> None:
        setproctitle.setthreadtitle("pt_gloo_runloop")
        began.set()
        body()

    threading.Thread(target=run, daemon=True).start()
    began.wait()


def test_a_program_ends_after_a_thread_that_is_late(tmp_path: Path) -> None:
    (tmp_path / "prog.py").write_text(PROGRAM)
    command = [sys.executable, "prog.py"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "let go\n", "")


def test_a_forked_program_waits_once(tmp_path: Path) -> None:
    """What prepares a forked program asks for it, and so does its ml.init()."""
    counted = (
        "import atexit, os, sys\n"
        "from mlenv import leaving, program\n"
        "from mlenv.launch.programs import Program\n"
        "said = []\n"
        "leaving.settle = lambda: said.append(1)\n"
        "program.prepare(Program(('python', 'p.py'), 'p.py', '', ()), os.environ.copy())\n"
        "import mlenv as ml\n"
        "ml.init()\n"
        "atexit._run_exitfuncs()\n"
        "print(said)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", counted], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (ended.stdout, ended.stderr) == ("[1]\n", "")


def test_work_is_waited_for_and_waiting_is_not(over: threading.Event) -> None:
    done = threading.Event()

    def work() -> None:
        for _ in range(3_000_000):
            pass
        done.set()
        over.wait()

    gloo(work)
    leaving.settle(patience=60)
    assert done.is_set()


def test_no_longer_than_patience(over: threading.Event) -> None:
    def work() -> None:
        while not over.is_set():
            pass

    gloo(work)
    leaving.settle(patience=0.1)


def test_without_gloo_nothing_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaving, "_WORKER", "nobody")
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("waited"))
    leaving.settle()


def test_gloos_threads_are_those() -> None:
    # By their numbers: a thread of a test before may go meanwhile.
    before = {look.thread for look in leaving._looks()}
    group = dist.ProcessGroupGloo(dist.HashStore(), 0, 1, dist.default_pg_timeout)
    group.allreduce([torch.ones(1)]).wait()
    assert {look.thread for look in leaving._looks()} - before
