"""`mlenv local wandb`: the W&B-compatible server, up and down."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mlenv_local.errors import LocalError
from mlenv_local.layout import STATE
from mlenv_local.telling import told
from mlenv_local.wandb_server.settings import DEFAULT_PORT, Settings

app = typer.Typer(
    name="wandb",
    help="A W&B-compatible server on this machine, for the unmodified wandb client.",
    no_args_is_help=True,
    add_completion=False,
)
_out = Console(highlight=False)
_err = Console(stderr=True, highlight=False)

DATA = STATE / "wandb.server"
"""Beside the clusters' folders; a dot is in no cluster's name."""
Data = Annotated[Path, typer.Option(help="The folder that holds everything the server knows.")]
Host = Annotated[str, typer.Option(help="Address to listen on; loopback unless you say otherwise.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any that is free.")]
PublicUrl = Annotated[
    str, typer.Option(help="Base of handed-out URLs [default: the address that each request was sent to].")
]


@app.command()
@told
def up(
    data: Data = DATA,
    host: Host = "127.0.0.1",
    port: Port = DEFAULT_PORT,
    public_url: PublicUrl = "",
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay, and log to the terminal.")] = False,
) -> None:
    """Start the server, with a user `local` the first time; says what to set for the client."""
    from mlenv_local.wandb_server import running  # noqa: PLC0415  (the command line is quick without it)

    settings = Settings(data=_made(data), host=host, port=port, public_url=public_url)
    if foreground:
        running.serve(settings)
        return
    started = running.start(settings)
    _err.print(f"The W&B server is at {started.url}, its data in {data}.", soft_wrap=True)
    if not running.ask(data, "GET", "/admin/users"):
        made = running.ask(data, "POST", "/admin/users", {"username": "local", "admin": True})
        _tell(started.url, "local", made["key"])


@app.command()
@told
def down(data: Data = DATA) -> None:
    """Stop the server; what it knows stays."""
    from mlenv_local.wandb_server import running  # noqa: PLC0415

    _err.print("Stopped." if running.stop(data) else f"No W&B server runs over {data}.", soft_wrap=True)


@app.command()
@told
def status(data: Data = DATA) -> None:
    """Say whether and where the server runs; ends with 1 unless it does."""
    from mlenv_local.wandb_server import running  # noqa: PLC0415

    found = running.find(data)
    if found is None:
        _out.print(f"No W&B server runs over {data}. Start it with `mlenv local wandb up`.", soft_wrap=True)
        raise typer.Exit(1)
    _out.print(f"{found.url} (process {found.process.pid}, data in {data})", soft_wrap=True)


@app.command()
@told
def user(
    name: str,
    data: Data = DATA,
    admin: Annotated[bool, typer.Option("--admin", help="May read and write everything.")] = False,
) -> None:
    """Add a user and print the API key, which is not shown again."""
    from mlenv_local.wandb_server import running  # noqa: PLC0415

    made = running.ask(data, "POST", "/admin/users", {"username": name, "admin": admin})
    _tell(running.require(data).url, name, made["key"])


@app.command()
@told
def key(name: Annotated[str, typer.Argument(help="An existing user.")] = "local", data: Data = DATA) -> None:
    """Give a user one more API key and print it: keys are stored as hashes, so none can be shown again."""
    from mlenv_local.wandb_server import running  # noqa: PLC0415

    made = running.ask(data, "POST", "/admin/keys", {"username": name})
    _tell(running.require(data).url, name, made["key"])


@app.command()
@told
def team(name: str, members: list[str], data: Data = DATA) -> None:
    """Add a team of existing users; the first administers it."""
    from mlenv_local.wandb_server import running  # noqa: PLC0415

    running.ask(data, "POST", "/admin/teams", {"name": name, "members": members})
    _err.print(f"Team {name}: {', '.join(members)}")


def _made(data: Path) -> Path:
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        problem = f"{data} cannot be made ({error.strerror})"
        raise LocalError(f"{problem}: run as root, or give a folder of yours with --data.") from error
    return data


def _tell(url: str, name: str, api_key: str) -> None:
    _err.print(f"User {name}; what to set for the client:")
    _out.print(f"export WANDB_BASE_URL={url}\nexport WANDB_API_KEY={api_key}", soft_wrap=True)
