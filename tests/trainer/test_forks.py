"""Ranks that are forked: nobody can tell them from those that `python train.py` starts.

Two launchers run the same programs side by side, one by fork and one by exec; what they print and how they
end must be the same.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rig import READY, Launcher, Rig, Server, until, world

from mlenv.launch.loop import IMPORT_SECONDS
from mlenv_api.protocol import Evidence, LauncherPhase, Order

if TYPE_CHECKING:
    from collections.abc import Iterator

OVER = (LauncherPhase.FAILED, LauncherPhase.SUCCEEDED)
NOT_FORKED = "not forked"


@dataclass(frozen=True)
class End:
    """How an attempt ended, and what its ranks printed, by rank."""

    evidence: tuple[Evidence, ...]
    lines: tuple[tuple[str, ...], ...]

    @property
    def how(self) -> list[tuple[int | None, str | None, str]]:
        return [(one.exit_code, one.signal, one.message) for one in self.evidence]


class Attempts:
    """A launcher whose program is written anew before each attempt."""

    def __init__(
        self, rig: Rig, pod: str, *program: str, procs: int = 1, way: str = "fork", **env: str
    ) -> None:
        self.rig = rig
        self.server: Server = rig.server()
        self.procs = procs
        self.number = 0
        (rig.folder / "prog.py").touch()
        self.launcher: Launcher = rig.launch(
            *(program or ("prog.py", "--flag", "a b")),
            urls=self.server.url,
            pod=pod,
            procs=procs,
            way=way,
            **env,
        )

    def start(self, code: str = "") -> int:
        if code:
            (self.rig.folder / "prog.py").write_text(code)
        self.number += 1
        pod, number = self.launcher.pod, self.number
        self.server.say(pod, number, stored_evidence=10**6)
        self.server.wait(pod, lambda b: (b.attempt, b.phase) == (number, LauncherPhase.WAITING), "waiting")
        self.server.say(pod, number, world=world(procs=self.procs))
        return number

    def end(self) -> End:
        number = self.number
        beat = self.server.wait(
            self.launcher.pod, lambda b: b.attempt == number and b.phase in OVER, f"the end of {number}"
        )
        evidence = tuple(one for one in beat.evidence if one.attempt == number)
        return End(evidence, tuple(self.lines(rank) for rank in range(self.procs)))

    def run(self, code: str = "") -> End:
        self.start(code)
        return self.end()

    def lines(self, rank: int = 0) -> tuple[str, ...]:
        prefix = re.escape(f"[a{self.number} r{rank}] ")
        return tuple(re.findall(f"^{prefix}(.*)$", self.launcher.text(), re.MULTILINE))


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("forks"))
    yield rig
    rig.close()


@pytest.fixture(scope="module")
def forked(rig: Rig) -> Attempts:
    return forking(Attempts(rig, "forked", OMP_NUM_THREADS="2"))


@pytest.fixture(scope="module")
def executed(rig: Rig) -> Attempts:
    return Attempts(rig, "executed", way="exec", OMP_NUM_THREADS="2")


@pytest.fixture(scope="module")
def pair(rig: Rig) -> Attempts:
    return forking(Attempts(rig, "pair", procs=2, OMP_NUM_THREADS="1"))


def forking(attempts: Attempts) -> Attempts:
    """With its fork server ready: a busy machine may take longer to import than a launcher waits."""
    attempts.launcher.wait_for_forks()
    return attempts


def both(forked: Attempts, executed: Attempts, code: str) -> End:
    """Run `code` in both ways, and have it make no difference."""
    for one in (forked, executed):
        one.start(code)
    by_fork, by_exec = forked.end(), executed.end()
    assert NOT_FORKED not in forked.launcher.text()
    for mine, theirs in zip(by_fork.lines[0], by_exec.lines[0], strict=False):
        assert mine == theirs
    assert by_fork == End(by_fork.evidence, by_exec.lines)
    assert by_fork.how == by_exec.how
    return by_fork


ENDS = {
    "0": ("raise SystemExit", []),
    "exit 1": ("import sys; sys.exit(1)", [(1, None, "")]),
    "exit 3": ("raise SystemExit(3)", [(3, None, "")]),
    "exit 78": ("exit(78)", [(78, None, "")]),
    "text": ("raise SystemExit('no data here')", [(1, None, "no data here")]),
    "exception": ("def f():\n  raise KeyError('x')\nf()", [(1, None, "KeyError: 'x'")]),
    "chained": (
        "try:\n  1 / 0\nexcept ZeroDivisionError as e:\n  raise ValueError('after') from e",
        [(1, None, "ValueError: after")],
    ),
    "syntax": ("x = 1\nif x\n  pass", [(1, None, "SyntaxError: expected ':'")]),
    "_exit": ("import os; os._exit(9)", [(9, None, "")]),
    "segv": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", [(None, "SIGSEGV", "")]),
    "kill": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", [(None, "SIGKILL", "")]),
    "term": ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", [(None, "SIGTERM", "")]),
    "interrupt": ("raise KeyboardInterrupt", [(None, "SIGINT", "KeyboardInterrupt")]),
    "hook": (
        "import sys\ndef hook(kind, _, trace):\n  print(kind, trace.tb_lineno)\nsys.excepthook = hook\nexit_",
        [(1, None, "")],
    ),
    "at exit": (
        """import atexit, threading
atexit.register(print, 'atexit')
said = threading.Event()
threading.Thread(target=lambda: (said.wait(), print('thread'))).start()
print('main')
said.set()""",
        [],
    ),
    "unflushed": (
        "import sys\nsys.stdout.write('no end')\nclass A:\n  def __del__(s): print('del')\na = A()",
        [],
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_program_ends_as_it_always_does(forked: Attempts, executed: Attempts, end: str) -> None:
    code, how = ENDS[end]
    assert both(forked, executed, code).how == how


def test_a_traceback_shows_the_programs_frames_alone(forked: Attempts, executed: Attempts) -> None:
    end = both(forked, executed, "def f():\n  raise ValueError('boom')\nf()\n")
    (lines,) = end.lines
    assert lines[0] == "Traceback (most recent call last):"
    assert [line for line in lines if "File" in line] == [
        f'  File "{forked.rig.folder}/prog.py", line 3, in <module>',
        f'  File "{forked.rig.folder}/prog.py", line 2, in f',
    ]


FACTS = """
import os, pickle, resource, signal, sys, threading
from pathlib import Path
names = sorted(n for n in globals() if n.startswith("__"))
print(names, __name__, __file__, __spec__, __doc__, type(__loader__).__name__, __loader__.path)
print(sys.argv, sys.orig_argv, sys.path, sys.flags, sys.executable)
print(os.getcwd(), os.umask(0o22), os.getpriority(0, 0), os.sched_getaffinity(0))
print([resource.getrlimit(n) for n in range(16)])
print([(int(s), str(signal.getsignal(s))) for s in sorted(signal.valid_signals())])
print(signal.pthread_sigmask(signal.SIG_BLOCK, ()), threading.active_count(), threading.current_thread().name)
print({n: os.readlink(f"/proc/self/fd/{n}").split(":")[0] for n in range(3)})
print(len(os.listdir("/proc/self/fd")))
print(os.getsid(0) == os.getpid() == os.getpgid(0), repr(sys.stdin.read()))
print(Path("/proc/self/cmdline").read_bytes().replace(b"\\0", b" ").strip())
print(Path("/proc/self/comm").read_text())
print(sorted((k, v) for k, v in os.environ.items() if not k.startswith("MLENV_") and "ELASTIC" not in k))
print(sys.stdout.line_buffering, sys.stdout.write_through, sys.stdout.encoding, sys.stderr.errors)
class Thing: pass
print(type(pickle.loads(pickle.dumps(Thing()))) is Thing, Thing.__module__)
"""


def test_a_program_finds_what_it_always_finds(forked: Attempts, executed: Attempts) -> None:
    end = both(forked, executed, FACTS)
    assert len(end.lines[0]) > 10
    ppid = forked.run("import os\nprint(os.getppid())").lines[0]
    assert ppid == (str(forked.launcher.process.pid),)


TENSORS = """
import sys
print("first", "torch._dynamo" in sys.modules, *{"fsspec", "grpc", "pyarrow"} & {*sys.modules})
import torch
a = torch.rand(1200, 1200)
print(torch.get_num_threads(), torch.cuda._is_in_bad_fork())
for _ in range(3):
    a = a @ a / 600
import os
print("threads", len(os.listdir("/proc/self/task")) > 1)
net = torch.nn.Linear(8, 8)
opt = torch.optim.AdamW(net.parameters())
net(torch.ones(4, 8)).sum().backward()
opt.step()
print(torch.cuda.is_available())
"""


def test_tensors_are_computed_in_parallel(forked: Attempts, executed: Attempts) -> None:
    for one in (forked, executed):
        one.start(TENSORS)
    (by_fork,), (by_exec,) = forked.end().lines, executed.end().lines
    assert (by_fork[0], by_exec[0]) == ("first True", "first False")
    assert by_fork[1:] == by_exec[1:]
    assert by_fork[1] == "2 False"
    assert by_fork[2] == "threads True"


WORKERS = """
import multiprocessing as mp, sys
def work(n):
    return n * n, __name__
if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        with mp.get_context(method).Pool(2) as pool:
            print(method, pool.map(work, range(3)))
    from torch.utils.data import DataLoader
    print([batch.tolist() for batch in DataLoader(list(range(4)), batch_size=2, num_workers=2)])
"""


def test_workers_of_every_kind(forked: Attempts, executed: Attempts) -> None:
    end = both(forked, executed, WORKERS)
    assert end.how == []
    assert len(end.lines[0]) == 4


DRAWS = """
import random, tempfile, multiprocessing
import numpy as np, torch
print(np.random.rand(3).tolist(), random.random(), next(tempfile._get_candidate_names()))
print(torch.rand(3).tolist(), torch.initial_seed())
print(bytes(multiprocessing.current_process().authkey).hex())
"""


def test_ranks_draw_different_numbers(pair: Attempts) -> None:
    first, second = pair.run(DRAWS), pair.run(DRAWS)
    assert NOT_FORKED not in pair.launcher.text()
    lines = [*first.lines, *second.lines]
    words = [word for one in lines for line in one for word in line.split()]
    assert len(words) == len(set(words)) == 4 * 10


def test_no_rank_holds_what_is_anothers(pair: Attempts) -> None:
    code = "import os\nprint(*sorted(os.readlink(f'/proc/self/fd/{n}') for n in ('0', '1', '2')))\n"
    code += "print(sorted(map(int, os.listdir('/proc/self/fd')))[:-1])"
    (first, second) = pair.run(code).lines
    assert first[1] == second[1] == "[0, 1, 2]"
    assert len({*first[0].split(), *second[0].split()}) == 5  # /dev/null is shared
    server = pair.launcher.wait_for_forks()
    links = [str(entry.readlink()) for entry in Path(f"/proc/{server}/fd").iterdir()]
    assert sorted(link.partition(":")[0] for link in links) == ["/dev/null", "pipe", "pipe", "socket"]


def test_the_server_computes_nothing_and_begins_nothing(forked: Attempts) -> None:
    forked.run("pass")
    server = forked.launcher.wait_for_forks()
    assert [entry.name for entry in Path(f"/proc/{server}/task").iterdir()] == [str(server)]
    assert Path(f"/proc/{server}/task/{server}/children").read_text() == ""


def test_what_a_rank_leaves_behind_goes_and_the_server_stays(forked: Attempts) -> None:
    server = forked.launcher.wait_for_forks()
    code = "import subprocess as s\nprint(s.Popen(['sleep', '600'], start_new_session=True).pid)\nexit(1)"
    left = int(forked.run(code).lines[0][0])
    until(lambda: not Path(f"/proc/{left}").exists(), "the end of what was left")
    forked.run("pass")
    until(lambda: set(forked.launcher.children()) == {server}, "the server alone")


def test_a_module_of_the_programs_own_is_preferred(forked: Attempts) -> None:
    """Beside a script, sympy.py is what `import sympy` means, though the server has another one."""
    own = forked.rig.folder / "sympy.py"
    code = "import sys\nprint('torch' in sys.modules)\nimport sympy\nprint(sympy.__file__)"
    own.write_text("")
    try:
        assert forked.run(code).lines[0] == ("False", str(own))
        assert forked.run(code).lines[0] == ("False", str(own))
    finally:
        own.unlink()
    assert forked.launcher.text().count(f"not forked: {own} would not be imported") == 1
    assert forked.run(code).lines[0][0] == "True"


def test_a_module_as_the_program(rig: Rig) -> None:
    (rig.folder / "package").mkdir()
    (rig.folder / "package" / "__init__.py").write_text("")
    code = "import sys\nprint(__name__, __spec__.name, __package__, __file__, sys.argv, sys.path[0])\n"
    code += "raise OSError('o')"
    (rig.folder / "package" / "train.py").write_text(code)
    ways = [Attempts(rig, f"module-{way}", "-m", "package.train", "x", way=way) for way in ("fork", "exec")]
    by_fork, by_exec = (way.run() for way in (forking(ways[0]), ways[1]))
    assert NOT_FORKED not in ways[0].launcher.text()
    assert by_fork.lines == by_exec.lines
    assert by_fork.how == by_exec.how == [(1, None, "OSError: o")]
    (rig.folder / "package" / "train.py").unlink()
    assert ways[0].run().lines == ways[1].run().lines


def test_a_killed_server_is_replaced_and_nobody_waits_for_it(rig: Rig) -> None:
    attempts = Attempts(rig, "killed")
    old = attempts.launcher.wait_for_forks()
    code = "import sys\nprint('torch' in sys.modules)"
    os.kill(old, signal.SIGKILL)
    until(lambda: "the fork server ended with code -9" in attempts.launcher.text(), "a word about it")
    assert attempts.run(code).lines[0] == ("False",)
    assert f"{NOT_FORKED}: the fork server" in attempts.launcher.text()
    until(lambda: attempts.launcher.fork_server() not in (None, old), "another server")
    until(lambda: attempts.launcher.text().count("the fork server is ready") == 2, "it to be ready")
    assert attempts.run(code).lines[0] == ("True",)


def test_the_first_ranks_wait_for_what_they_would_have_to_import_themselves(rig: Rig) -> None:
    attempts, begin = Attempts(rig, "first"), time.monotonic()
    assert READY not in attempts.launcher.text()
    forked = attempts.run("import sys\nprint('torch' in sys.modules)").lines[0] == ("True",)
    assert forked or time.monotonic() - begin >= IMPORT_SECONDS, "they wait for so long"
    assert (NOT_FORKED in attempts.launcher.text()) is not forked


@pytest.mark.parametrize("order", [Order.STOP, Order.RUN])
def test_ranks_that_still_wait_can_be_called_off(rig: Rig, order: Order) -> None:
    """By an order to leave, or by a newer attempt."""
    attempts = Attempts(rig, f"called-off-{order}")
    attempts.start("print('ran', flush=True)\nimport time\ntime.sleep(600)")
    assert READY not in attempts.launcher.text()
    pod = attempts.launcher.pod
    attempts.server.say(pod, 2, order=order)
    if order is Order.STOP:
        assert attempts.launcher.exit_code() == 1
        assert "started again" not in attempts.launcher.text()
    else:
        attempts.server.wait(pod, lambda b: (b.attempt, b.phase) == (2, LauncherPhase.WAITING), "waiting")
    assert "ran" not in attempts.launcher.text()


def test_nothing_outlives_the_launcher(rig: Rig) -> None:
    attempts = Attempts(rig, "orphans")
    server = attempts.launcher.wait_for_forks()
    attempts.start("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)")
    (rank,) = until(attempts.lines, "the rank")
    attempts.launcher.process.kill()
    for pid in (server, int(rank)):
        until(lambda pid=pid: not Path(f"/proc/{pid}/cwd").exists(), "the end")


DIRECT = """
import os, signal, sys, time
from mlenv.launch import config, forks, procs, programs
from mlenv.launch.children import Pipes, attach

procs.adopt_orphans()
pipes, said, codes = Pipes(), [], {}
env = config.base_env(os.environ, 1, 1)
program = programs.parse([sys.executable, "prog.py"], env, sys.executable)
server = forks.ForkServer(pipes, program, env, said.append)
server.start()

def until(holds):
    while not holds():
        for key, _ in pipes.selector.select(0.01):
            if key.data.fd >= 0:
                pipes.pump(key.data)
        codes.update(procs.ended())

def started(index, child):
    lines = []
    attach(pipes, child, lines.extend, lines.extend)
    ranks.append((child, lines))
    assert os.getpgid(child.pid) == child.pid  # a signal to its group would reach it
    if kill:
        os.kill(child.pid, signal.SIGKILL)

until(lambda: server.ready)

# Killed before it was let go: its end is seen like any other, and not a line of it has run.
ranks, kill = [], True
assert server.fork([{**env, "RANK": "never"}], started) == ((), "")
until(lambda: ranks[0][0].pid in codes and ranks[0][0].streams[0].fd < 0)
assert (codes[ranks[0][0].pid], ranks[0][1]) == (-9, [])

# The pipe of one that ended is at its end, while a rank that was forked with it lives.
ranks, kill = [], False
assert server.fork([{**env, "RANK": "short"}, {**env, "RANK": "long"}], started) == ((), "")
(short, lines), (long, more) = ranks
until(lambda: all(stream.fd < 0 for stream in short.streams) and short.pid in codes and more)
assert (lines, more, long.pid in codes) == ([b"short"], [b"long"], False)
os.kill(long.pid, signal.SIGKILL)
until(lambda: long.pid in codes)

# A server that does not answer in time is given up, and what it forks later runs nothing.
ranks, pid, forks.ANSWER_SECONDS = [], server.pid, 0.2
for number in (signal.SIGSTOP, signal.SIGCONT):
    os.kill(pid, number)
    if number == signal.SIGSTOP:
        left, why = server.fork([{**env, "RANK": "late"}], started)
assert (left, ranks, server.ready) == ((0,), [], False) and "did not answer" in why, why
assert "has died" in server.fork([env], started)[1] or "importing" in server.fork([env], started)[1]
until(lambda: pid in codes)
assert server.ended(codes[pid]) == 1.0
until(lambda: not procs.descendants())
assert not os.path.exists("late")
print(said)
"""


SAYS = """
import os, time
name = os.environ["RANK"]
print(name)
open(name, "w")
if name == "long":
    time.sleep(600)
"""


def test_what_can_go_wrong_between_fork_and_go(tmp_path: Path) -> None:
    (tmp_path / "prog.py").write_text(SAYS)
    result = subprocess.run(
        [sys.executable, "-c", DIRECT], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"['{READY}: ranks are forked from now on']\n"


def test_options_of_python_are_honoured(rig: Rig) -> None:
    attempts = Attempts(rig, "options", "python", "-O", "prog.py", way="exec", MLENV_FORK_SERVER="1")
    assert attempts.run("print(__debug__)").lines[0] == ("False",)


def test_without_torch_there_is_no_server(rig: Rig) -> None:
    (rig.folder / "broken" / "torch").mkdir(parents=True)
    (rig.folder / "broken" / "torch" / "__init__.py").write_text("raise ImportError('no torch here')")
    path = str(rig.folder / "broken")
    attempts = Attempts(rig, "torchless", "prog.py", way="fork", PYTHONPATH=path)
    until(lambda: attempts.launcher.children() == {}, "the end of the server")
    assert attempts.run("print('works')").lines[0] == ("works",)
    assert f"{NOT_FORKED}: torch cannot be imported: ImportError: no torch here" in attempts.launcher.text()
    assert "started again" not in attempts.launcher.text()
