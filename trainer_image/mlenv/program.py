"""Running a program in a process that is Python already, as if Python had just been started for it.

What ``python train.py`` and ``python -m package.module`` set up before a program's first line is set up here:
``sys.argv``, ``sys.path[0]``, ``__main__``, random numbers, the title that ``ps`` shows.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import runpy
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING, Any

import setproctitle

from mlenv import leaving

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from mlenv.launch.programs import Program

_KEPT = ("__name__", "__doc__", "__package__", "__loader__", "__spec__", "__builtins__")


def prepare(program: Program, env: Mapping[str, str]) -> None:
    """Give this process environment, arguments, path and title of `program`, and its own random numbers."""
    os.environ.clear()
    os.environ.update(env)
    sys.orig_argv[:] = program.argv
    sys.argv[:] = ["-m" if program.module else program.script, *program.args]
    if not sys.flags.safe_path:
        sys.path.insert(0, folder(program))
    importlib.invalidate_caches()
    setproctitle.setproctitle(" ".join(program.argv))
    setproctitle.setthreadtitle(Path(program.argv[0]).name)  # what top shows; the line above changed that too
    _reseed()
    # Frozen objects are never collected, which at exit would show as leaks: let them go before.
    atexit.register(gc.unfreeze)
    leaving.at_exit()


def folder(program: Program) -> str:
    """Where imports of `program` are looked for first."""
    return str(Path.cwd() if program.module else Path(program.script).resolve().parent)


def _reseed() -> None:
    """As in every new process; Python's own generator does it by itself after a fork."""
    if "torch" in sys.modules:
        sys.modules["torch"].default_generator.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    if "multiprocessing.process" in sys.modules:
        sys.modules["multiprocessing.process"].current_process().authkey = os.urandom(32)


def run(program: Program) -> None:
    """Run it as ``__main__``. What it raises goes on to the interpreter, which ends as it always does."""
    scope = sys.modules["__main__"].__dict__
    _reset(scope)
    try:
        if program.module:
            run_module = runpy._run_module_as_main  # type: ignore[attr-defined]  # noqa: SLF001
            run_module(program.module)
        else:
            _run_script(program.script, scope)
    except SystemExit:
        raise
    except BaseException as error:
        _hide_our_frames(error)
        raise


def _reset(scope: dict[str, Any]) -> None:
    kept = {name: scope[name] for name in _KEPT if name in scope}
    annotated = "__annotations__" in scope
    scope.clear()
    scope.update(kept)
    if annotated:
        scope["__annotations__"] = {}


def _run_script(script: str, scope: dict[str, Any]) -> None:
    # Python joins, and does not normalise: ./train.py is shown as /here/./train.py.
    path = script if script.startswith("/") else f"{Path.cwd()}/{script}"
    scope.update(__file__=path, __cached__=None, __loader__=SourceFileLoader("__main__", path))
    code = compile(Path(path).read_bytes(), path, "exec", dont_inherit=True)
    exec(code, scope)  # noqa: S102  (it is the user's own program)


def _hide_our_frames(error: BaseException) -> None:
    """Have whatever prints this error, the program's own hook included, begin with the program's frames."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    hook = sys.excepthook

    def show(kind: type[BaseException], value: BaseException, _: TracebackType | None) -> None:
        sys.excepthook = hook
        sys.last_traceback = trace
        hook(kind, value.with_traceback(trace), trace)

    sys.excepthook = show
