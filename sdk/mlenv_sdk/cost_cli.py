"""``mlenv cost``: what was spent, on what, and why."""

from __future__ import annotations

import json
import os
import re
import sys
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path  # noqa: TC003  (typer reads it)
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console

from mlenv_sdk.errors import ConfigError, Forbidden, MlenvError, NotFound
from mlenv_sdk.manifests import load
from mlenv_sdk.view import budgets as budget_view
from mlenv_sdk.view import costs as view

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from mlenv_sdk.client import Client
    from mlenv_sdk.resources import TrainingJob

PATIENCE: Final = 5.0
"""Seconds that whoever submits a job waits, at most, to be told what it will cost."""
EVERYTHING: Final = 50_000
WIDE: Final = 240
"""Columns of what no screen shows: `grep` wants whole lines."""
_AGO: Final = re.compile(r"([1-9][0-9]{0,3})([dh])", re.ASCII)
_LONG: Final = re.compile(r"([1-9][0-9]{0,3})([mhd])", re.ASCII)


class CostFormat(StrEnum):
    """How to print costs."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"


def cost(  # noqa: PLR0917  (options, which nobody gives by position)
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[JOB | explain JOB | estimate FILE | budgets]",
            help="A job; explain: every interval of it, and why; estimate: what a manifest would cost;"
            " budgets: how they stand.",
        ),
    ] = None,
    by: Annotated[
        str, typer.Option(help="Group by these: team,model,use_case,user,namespace,job,category,node,day…")
    ] = "namespace",
    since: Annotated[
        str | None, typer.Option(help="From this hour on, as 2025-11-01 or 7d; else this month.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Before this hour; else now.")] = None,
    month: Annotated[str | None, typer.Option(help="A month as billed, as 2025-11.")] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="Only of this, as team=ads; several of one are alternatives.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="So many groups.")] = None,
    sort: Annotated[str, typer.Option(help="cost (highest first) or key.")] = "cost",
    lasting: Annotated[
        str | None, typer.Option("--for", help="How long an estimate is for, as 90m, 12h or 7d.")
    ] = None,
    uid: Annotated[str | None, typer.Option(help="Which job, when several had the name.")] = None,
    output: Annotated[CostFormat, typer.Option("--output", "-o", help="How to print.")] = CostFormat.TABLE,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Write into this file.")] = None,
) -> None:
    """What training cost: by anything, or of a job, with every interval and why; or what a job would cost."""
    _check(words or [], output, file, lasting)
    made: RenderableType | bytes
    with context.obj.client() as client:
        if words == ["budgets"] and uid is None:
            made = _budgets(client, output)
        elif words and _estimates(words):
            found = client.costs.estimate(load(words[1]), _seconds(lasting))
            made = view.estimate(found) if output is CostFormat.TABLE else _json(found.raw)
        elif not words:
            chosen = _where(where or [], context.obj.namespace)
            said = {"since": _time(since), "until": _time(until), "month": month, "where": chosen}
            made = _groups(client, by.replace("-", "_").split(","), output, limit, {**said, "sort": sort})
        else:
            made = _of_job(client, words, output, uid)
    _put(made, file)


def foretold(client: Client, job: TrainingJob) -> str:
    """What a job will cost, in one line; empty where nobody tells, or not soon: nothing depends on it."""
    try:
        found = client.costs.within(PATIENCE).estimate(job)
    except MlenvError:
        return ""
    return view.in_short(found)


def _estimates(words: Sequence[str]) -> bool:
    return len(words) == 2 and words[0] == "estimate"


def _check(words: Sequence[str], output: CostFormat, file: Path | None, lasting: str | None) -> None:
    if len(words) > 2 or (len(words) == 2 and words[0] not in {"explain", "estimate"}):
        raise typer.BadParameter(
            "say mlenv cost, mlenv cost JOB, mlenv cost explain JOB, mlenv cost estimate FILE, or"
            " mlenv cost budgets"
        )
    if _estimates(words) and output in {CostFormat.CSV, CostFormat.PARQUET}:
        raise typer.BadParameter("an estimate is printed as a table, or with -o json")
    if lasting and not _estimates(words):
        raise typer.BadParameter("--for belongs to mlenv cost estimate FILE; --since says of which time")
    if output is CostFormat.PARQUET and file is None and sys.stdout.isatty():
        raise typer.BadParameter("Parquet is nothing to read on a screen: give --file, or a pipe")


def _budgets(client: Client, output: CostFormat) -> RenderableType | bytes:
    if output in {CostFormat.CSV, CostFormat.PARQUET}:
        raise typer.BadParameter("budgets are printed as a table, or with -o json")
    found = client.budgets()
    if output is CostFormat.TABLE:
        return budget_view.budgets(found)
    return _json({"kind": "Budgets", "version": "v1", "budgets": [one.raw for one in found]})


def _groups(
    client: Client, by: list[str], output: CostFormat, limit: int | None, said: dict[str, Any]
) -> RenderableType | bytes:
    if output in {CostFormat.CSV, CostFormat.PARQUET}:
        return client.costs.group_as(output, by, limit=limit or EVERYTHING, **said)
    found = client.costs.group(by, limit=limit or (20 if output is CostFormat.TABLE else EVERYTHING), **said)
    return view.report(found) if output is CostFormat.TABLE else _json(found.raw)


def _of_job(
    client: Client, words: Sequence[str], output: CostFormat, uid: str | None
) -> RenderableType | bytes:
    name, costs = words[-1], client.costs
    uid = uid or _living(client, name)
    if len(words) == 1:
        if output in {CostFormat.CSV, CostFormat.PARQUET}:
            return costs.job_as(output, name, uid)
        found = costs.job(name, uid)
        return view.bill(found) if output is CostFormat.TABLE else _json(found.raw)
    if output in {CostFormat.CSV, CostFormat.PARQUET}:
        return costs.explain_as(output, name, uid)
    charges = list(costs.explain(name, uid))
    if output is CostFormat.TABLE:
        return view.explanation(charges)
    return _json({"kind": "Explanation", "version": "v1", "job": name, "lines": [one.raw for one in charges]})


def _living(client: Client, name: str) -> str | None:
    """The UID of the job that has the name now; the ledger knows those that had it before."""
    try:
        return client.get(name).metadata.uid
    except (NotFound, Forbidden):
        return None


def _where(texts: Sequence[str], namespace: str | None) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"namespace": [namespace]} if namespace else {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--where must be as team=ads, not {text!r}.")
        found.setdefault(name.replace("-", "_"), []).append(value)
    return found


def _time(text: str | None) -> str | None:
    """`7d` and `12h` count back from now, to the hour; the server reads the rest."""
    found = _AGO.fullmatch(text or "")
    if found is None:
        return text
    ago = timedelta(days=int(found[1])) if found[2] == "d" else timedelta(hours=int(found[1]))
    return f"{datetime.now(UTC) - ago:%Y-%m-%dT%H:00Z}"


def _seconds(text: str | None) -> int | None:
    if text is None:
        return None
    found = _LONG.fullmatch(text)
    if found is None:
        raise ConfigError(f"--for must be as 90m, 12h or 7d, not {text!r}.")
    return int(found[1]) * {"m": 60, "h": 3600, "d": 86400}[found[2]]


def _json(told: dict[str, Any]) -> bytes:
    return json.dumps(told, indent=2, ensure_ascii=False).encode() + b"\n"


def _put(made: RenderableType | bytes, file: Path | None) -> None:
    if isinstance(made, bytes) and file is not None:
        file.write_bytes(made)
    elif isinstance(made, bytes):
        sys.stdout.flush()
        sys.stdout.buffer.write(made)
        sys.stdout.buffer.flush()
    elif file is None:
        Console(highlight=False, width=_width()).print(made)
    else:
        with file.open("w", encoding="utf-8") as text:
            Console(file=text, highlight=False, width=WIDE).print(made)


def _width() -> int | None:
    return None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDE
