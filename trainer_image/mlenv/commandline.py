"""``@ml.entry``: a function of a config becomes a program with a command line."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import inspect
import json
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar, get_type_hints

from pydantic import BaseModel, TypeAdapter, ValidationError

from mlenv import job as jobs
from mlenv_api import names
from mlenv_api.exitcodes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mlenv.job import Job

FILE: Final = "config.json"
USAGE: Final = 2
FIRST_SPEAKS_S: Final = 10.0
"""So long the other ranks wait for the end that comes with rank 0's."""
OPTION: Final = "--config"
HELP: Final = f"{OPTION} FILE: JSON or YAML with the same names; what the command line says wins."
Config = TypeVar("Config")


def entry(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a program of ``main(config)`` or ``main(config, job)``; `config` is a dataclass or pydantic model.

    ``main()``, without arguments, reads the command line and what ``--config FILE`` says (JSON or YAML; the
    command line wins), calls ``ml.init()``, with ``config.seed`` if there is one, writes the resolved config
    into the run's folder, and ends with the number that the function returns, if it does. With arguments it
    is the function. A wrong option ends with 2, in a job with 78: no other attempt would do better.
    """

    @functools.wraps(function)
    def program(*args: Any, **more: Any) -> Any:
        if args or more:
            return function(*args, **more)
        config = read(_kind(function), sys.argv[1:], description=function.__doc__ or "")
        job = jobs.init(seed=_seed(config))
        if job.main:
            _write(job, config)
        code = function(*(config, job)[: len(inspect.signature(function).parameters)])
        return sys.exit(code) if isinstance(code, int) else code

    return program


def read(kind: type[Config], argv: Sequence[str], *, description: str = "") -> Config:
    """The config that a command line describes. Ends the program on ``--help``, and when there is none."""
    import tyro  # noqa: PLC0415  (only programs with a command line pay for it)

    try:
        given = _with_file(kind, list(argv))
        config: Config = tyro.cli(
            kind,
            args=given,
            prog=Path(sys.argv[0]).name,
            description=f"{inspect.cleandoc(description)}\n\n{HELP}".strip(),
            config=(tyro.conf.FlagConversionOff, tyro.conf.EnumChoicesFromValues),
            console_outputs=_speaks(),
        )
    except ValidationError as error:
        lines = [f"--{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        _refuse("\n".join(lines))
    except (ValueError, OSError) as error:
        _refuse(str(error))
    except SystemExit as end:
        if end.code:
            raise _end() from None
        raise
    return config


def _kind(function: Callable[..., Any]) -> type[Any]:
    found = inspect.get_annotations(function)
    first = next(iter(inspect.signature(function).parameters), None)
    kind = found.get(first or "")
    if isinstance(kind, str):
        # Only this one: others may name what is imported for type checkers.
        kind = eval(kind, function.__globals__)  # noqa: S307  (the program's own annotation)
    if not _has_fields(kind):
        raise TypeError(
            f"@ml.entry: the first argument of {function.__name__}() must be annotated with a dataclass or a "
            "pydantic model, such as `def main(config: Config) -> None`"
        )
    assert isinstance(kind, type)
    return kind


def _has_fields(kind: object) -> bool:
    return dataclasses.is_dataclass(kind) or (isinstance(kind, type) and issubclass(kind, BaseModel))


# -- the file


def _with_file(kind: type[Any], argv: list[str]) -> list[str]:
    """`argv`, with what its file says before it: later options win."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(OPTION, type=Path)
    try:
        found, rest = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from None
    return [*_options(kind, _load(found.config)), *rest] if found.config else rest


def _load(path: Path) -> Mapping[str, Any]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        found = json.loads(text)
    else:
        import yaml  # noqa: PLC0415  (as tyro)

        found = yaml.safe_load(text) or {}
    if not isinstance(found, Mapping):
        raise ValueError(f"{OPTION} {path}: names and values are expected, not a {type(found).__name__}")  # noqa: TRY004
    return found


def _options(kind: Any, values: Mapping[str, Any], path: str = "--") -> Iterator[str]:
    """The command line that says the same as `values`: so one place knows what is right and what is not."""
    hints = get_type_hints(kind) if _has_fields(kind) else {}
    for key, value in values.items():
        hint = hints.get(key)
        if isinstance(value, Mapping) and (hint is None or _has_fields(hint)):
            yield from _options(hint, value, f"{path}{key}.")
        elif isinstance(value, Mapping):
            yield from (f"{path}{key}", *(str(word) for pair in value.items() for word in pair))
        elif isinstance(value, list):
            yield from (f"{path}{key}", *(str(one) for one in value))
        else:
            yield f"{path}{key}={value}"


# -- what comes of it


def _seed(config: Any) -> int:
    seed = getattr(config, "seed", 0)
    return seed if isinstance(seed, int) else 0


def _write(job: Job, config: Any) -> None:
    """All values, in a form that ``--config`` reads; a disk that takes nothing stops no training."""
    text = TypeAdapter(type(config)).dump_json(config, indent=2).decode() + "\n"
    target = job.run_dir / FILE
    try:
        job.run_dir.mkdir(parents=True, exist_ok=True)
        fresh = target.with_suffix(".new")
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(target)
    except OSError as error:
        sys.stderr.write(f"mlenv: {target} was not written ({error})\n")


def _refuse(sentence: str) -> NoReturn:
    if _speaks():
        sys.stderr.write(f"{Path(sys.argv[0]).name}: {sentence}\n")
    raise _end()


def _end() -> SystemExit:
    """The end of this rank; those that do not speak wait for the one that does: its words would be cut off.

    The first rank that fails ends the others, which may still be importing what it takes to say why.
    """
    if not _speaks():
        threading.Event().wait(FIRST_SPEAKS_S)
    return SystemExit(_code())


def _speaks() -> bool:
    """Whether this rank tells what all ranks find."""
    return os.environ.get("RANK", "0") == "0"


def _code() -> int:
    return ExitCode.DO_NOT_RETRY if os.environ.get(names.ENV_JOB_UID) else USAGE
