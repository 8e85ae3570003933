"""The ``mlenv`` command: submit, see, follow, end training jobs."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mlenv_sdk import plugins
from mlenv_sdk.client import Client
from mlenv_sdk.cost_cli import cost, foretold
from mlenv_sdk.errors import JobEnded, MlenvError, Refused, TimedOut
from mlenv_sdk.manifests import as_json, as_yaml, load
from mlenv_sdk.version import __version__
from mlenv_sdk.view import describe, tables
from mlenv_sdk.view.live import follow

EXIT_FAILED = 1
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="mlenv",
    help="Train on Kubernetes without knowing Kubernetes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


class Format(StrEnum):
    """How to print jobs."""

    TABLE = "table"
    YAML = "yaml"
    JSON = "json"


@dataclass(frozen=True)
class Target:
    """Which cluster and namespace the user meant."""

    kubeconfig: Path | None
    context: str | None
    namespace: str | None

    def client(self) -> Client:
        """A client for it."""
        return Client(self.kubeconfig, self.namespace, self.context)


Name = Annotated[str, typer.Argument(help="Name of the job.", show_default=False)]


@app.callback()
def target(
    context: typer.Context,
    kubeconfig: Annotated[
        Path | None, typer.Option(help="Kubeconfig file; else $KUBECONFIG, else ~/.kube/config.")
    ] = None,
    kube_context: Annotated[str | None, typer.Option("--context", help="Context of the kubeconfig.")] = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Namespace; else the context's own.")
    ] = None,
) -> None:
    """Train on Kubernetes without knowing Kubernetes."""
    context.obj = Target(kubeconfig, kube_context, namespace)


@app.command()
def submit(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="Manifest of the job, or - for standard input.")],
    watch_it: Annotated[bool, typer.Option("--watch", "-w", help="Follow the job until it ends.")] = False,
    git: Annotated[
        bool, typer.Option("--git/--no-git", help="Say in annotations which commit this folder is of.")
    ] = True,
    foretell: Annotated[
        bool, typer.Option("--estimate/--no-estimate", help="Say what it will cost, where that is told.")
    ] = True,
) -> None:
    """Submit a job: the server checks every field, and says what is wrong."""
    with _client(context) as client:
        job = client.submit(load(file), git=git)
        name, namespace = job.metadata.name, job.metadata.namespace or client.namespace
        typer.echo(f'The job "{name}" is submitted to {namespace}.')
        if foretell and (line := foretold(client, job)):
            typer.echo(line)
        if not watch_it:
            typer.echo(f"Follow it: mlenv -n {namespace} watch {name}")
            return
    with Client(context.obj.kubeconfig, namespace, context.obj.context) as client:
        _follow(client, name)


@app.command()
def get(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Name of the job; all unless given.")] = None,
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Of all.")] = False,
    output: Annotated[Format, typer.Option("--output", "-o", help="How to print.")] = Format.TABLE,
) -> None:
    """List jobs, or one."""
    with _client(context) as client:
        jobs = (client.get(name),) if name else client.list(all_namespaces=all_namespaces)
    if output is Format.TABLE and not jobs:
        typer.echo(f"No jobs in {'any namespace' if all_namespaces else client.namespace}.", err=True)
    elif output is Format.TABLE:
        _console().print(tables.jobs_table(jobs, _now(), namespaces=all_namespaces))
    else:
        typer.echo((as_yaml if output is Format.YAML else as_json)(jobs, single=name is not None))


@app.command("describe")
def describe_job(context: typer.Context, name: Name) -> None:
    """Tell all about a job: its state and why, its attempts, pods and events."""
    with _client(context) as client:
        job, pods, events = client.get(name), client.pods(name), client.events(name)
    _console().print(describe.report(job, pods, events, _now()))


@app.command()
def logs(
    context: typer.Context,
    name: Name,
    index: Annotated[int, typer.Option("--index", "-i", min=0, help="Which pod, counted from 0.")] = 0,
    follow_it: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
    tail: Annotated[int | None, typer.Option(min=0, help="Only the last lines; all unless given.")] = None,
) -> None:
    """Print what a pod of the job wrote."""
    with _client(context) as client:
        for line in client.logs(name, index, follow=follow_it, tail=tail):
            typer.echo(line)


@app.command()
def watch(context: typer.Context, name: Name) -> None:
    """Follow a job live until it ends: exit code 0 when it completes, 1 when it fails."""
    with _client(context) as client:
        _follow(client, name)


@app.command()
def wait(
    context: typer.Context,
    name: Name,
    until: Annotated[
        str | None, typer.Option("--for", help="Condition, as PodsReady or Complete; the end unless given.")
    ] = None,
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds; for ever unless given.")] = None,
) -> None:
    """Wait for a job: exit code 0 when it is so, 1 when it can no longer be, or not in time."""
    with _client(context) as client:
        try:
            job = client.wait(name, until, timeout)
        except (JobEnded, TimedOut) as error:
            typer.echo(f"mlenv: {error}", err=True)
            raise typer.Exit(EXIT_FAILED) from None
    typer.echo(describe.ending(job) if job.finished else f'The job "{name}" is {job.phase}.')
    raise typer.Exit(EXIT_FAILED if until is None and job.failed else 0)


@app.command()
def checkpoint(
    context: typer.Context,
    name: Name,
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds; for ever unless given.")] = None,
) -> None:
    """Have a job take a checkpoint now, and say which: exit code 1 when none came."""
    with _client(context) as client:
        try:
            made = client.checkpoint(name, timeout)
        except TimedOut as error:
            typer.echo(f"mlenv: {error} The order stands until one is sealed.", err=True)
            raise typer.Exit(EXIT_FAILED) from None
        except (JobEnded, Refused) as error:
            typer.echo(f"mlenv: {error}", err=True)
            raise typer.Exit(EXIT_FAILED) from None
    typer.echo(f'The job "{name}" has a checkpoint of step {made.step}, sealed by attempt {made.attempt}.')


app.command()(cost)


@app.command()
def suspend(context: typer.Context, name: Name) -> None:
    """Make a job give up its pods; it can then be edited and resumed."""
    with _client(context) as client:
        client.suspend(name)
    typer.echo(f'The job "{name}" will give up its pods. Let it go on: mlenv resume {name}')


@app.command()
def resume(context: typer.Context, name: Name) -> None:
    """Let a suspended job go on."""
    with _client(context) as client:
        client.resume(name)
    typer.echo(f'The job "{name}" goes on. Follow it: mlenv watch {name}')


@app.command()
def delete(
    context: typer.Context,
    name: Name,
    wait_gone: Annotated[bool, typer.Option("--wait/--no-wait", help="Return once it is gone.")] = True,
) -> None:
    """Delete a job and its pods."""
    with _client(context) as client:
        client.delete(name)
        if wait_gone:
            client.wait_deleted(name)
    typer.echo(f'The job "{name}" is deleted.')


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(f"mlenv {__version__}")


def main() -> None:
    """Runs the command: an error is one sentence on standard error, and exit code 2."""
    plugins.add_commands(app, sys.argv[1:])
    try:
        app()
    except MlenvError as error:
        typer.echo(f"mlenv: {error}", err=True)
        sys.exit(EXIT_ERROR)
    except BrokenPipeError:  # the reader (head, less) has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)


def _client(context: typer.Context) -> Client:
    chosen: Target = context.obj
    return chosen.client()


def _follow(client: Client, name: str) -> None:
    try:
        job = follow(client, name, _console())
    except KeyboardInterrupt:
        typer.echo(f"\nThe job goes on. Follow it again: mlenv watch {name}", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    typer.echo(describe.ending(job))
    raise typer.Exit(EXIT_FAILED if job.failed else 0)


def _console() -> Console:
    return Console(highlight=False)


def _now() -> datetime:
    return datetime.now(UTC)
