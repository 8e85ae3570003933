"""`mlenv local`: a real Kubernetes on this machine, up and down."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from mlenv_local import needs, store
from mlenv_local.cluster import Cluster
from mlenv_local.components import components
from mlenv_local.errors import LocalError
from mlenv_local.existing import install_existing
from mlenv_local.external import ExternalCluster
from mlenv_local.layout import STATE
from mlenv_local.progress import Reporter
from mlenv_local.telling import told
from mlenv_local.wandb_server.cli import app as wandb_server

app = typer.Typer(
    name="local",
    help="A real Kubernetes on this Linux machine (root).",
    no_args_is_help=True,
    add_completion=False,
)
app.add_typer(wandb_server)
_out = Console(highlight=False)
_err = Console(stderr=True, highlight=False)

Yes = Annotated[bool, typer.Option("--yes", help="Install missing Debian packages without asking.")]
Name = Annotated[str, typer.Option(help="Which cluster; several live side by side.")]
DEFAULT_NAME = "mlenv"


@app.command()
@told
def up(
    name: Name = DEFAULT_NAME,
    *,
    nodes: Annotated[int | None, typer.Option(min=1, help="How many nodes [default: 2].")] = None,
    fake_gpus: Annotated[
        int | None, typer.Option(min=0, help="Made-up nvidia.com/gpu of each node [default: 4].")
    ] = None,
    fake_nodes: Annotated[
        int | None, typer.Option(min=0, help="Nodes without processes, played by KWOK [default: 0].")
    ] = None,
    egress: Annotated[
        bool | None, typer.Option(help="Let pods reach the outside world through this host [default: yes].")
    ] = None,
    yes: Yes = False,
) -> None:
    """Start a cluster, or whatever of it doesn't run; the first time builds Kubernetes from source."""
    cluster = Cluster(name, reporter=Reporter(_err))
    kubeconfig = cluster.up(
        nodes=nodes, fake_gpus=fake_gpus, fake_nodes=fake_nodes, egress=egress, consent=_consent(yes=yes)
    )
    _err.print(f"Cluster [bold]{name}[/] is up. Next:")
    _out.print(f"export KUBECONFIG={kubeconfig}", soft_wrap=True)


@app.command()
@told
def install(
    kubeconfig: Annotated[Path, typer.Option(help="An existing cluster: kind, EKS, … Needs helm on PATH.")],
    operator_image: Annotated[str, typer.Option(help="Image of the operator that the cluster can pull.")],
    environment: Annotated[
        list[str] | None, typer.Option(help="NAME=IMAGE: what jobs may run in; may be repeated.")
    ] = None,
) -> None:
    """Install the platform into a cluster that you already have, or bring it up to date there."""
    cluster = ExternalCluster(kubeconfig)
    with Reporter(_err).step(f"Platform (helm install) in the cluster of {kubeconfig}"):
        install_existing(cluster, operator_image, environment or [])
    _err.print("The platform is installed. Next:")
    _out.print(f"export KUBECONFIG={kubeconfig}", soft_wrap=True)


@app.command()
@told
def down(name: Name = DEFAULT_NAME) -> None:
    """Take a cluster down and leave nothing of it; works after crashes, and when there is nothing to do."""
    cluster = Cluster(name, reporter=Reporter(_err))
    if not cluster.leftovers():
        _err.print(f"There is no cluster {name}.")
    with cluster.reporter.step(f"Taking cluster {name} down"):
        cluster.down()


@app.command()
@told
def status(name: Name = DEFAULT_NAME) -> None:
    """Say what runs; ends with 1 unless everything does."""
    cluster = Cluster(name)
    running = cluster.status()
    if not running:
        others = ", ".join(store.names(STATE)) or "none"
        _out.print(f"There is no cluster {name} (there are: {others}). Start it with `mlenv local up`.")
        raise typer.Exit(1)
    _out.print(_table(running), soft_wrap=True)
    _out.print(f"Nodes that are Ready: {_ready(cluster)}", soft_wrap=True)
    if not all(running.values()):
        _out.print("Something is down: `mlenv local up` starts it again, `mlenv local logs NAME` says why.")
        raise typer.Exit(1)


@app.command()
@told
def kubeconfig(
    name: Name = DEFAULT_NAME,
    content: Annotated[bool, typer.Option("--content", help="Print the file itself, not its path.")] = False,
) -> None:
    """Print where the administrator's kubeconfig is, for `export KUBECONFIG=$(mlenv local kubeconfig)`."""
    path = Cluster(name).kubeconfig
    sys.stdout.write(path.read_text() if content else f"{path}\n")


@app.command()
@told
def logs(
    component: Annotated[str | None, typer.Argument(help="For example etcd or node-1/kubelet.")] = None,
    name: Name = DEFAULT_NAME,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1)] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f")] = False,
) -> None:
    """Show the log of a component; without one, list them."""
    cluster = Cluster(name)
    if component is None:
        for part in components(cluster.layout, cluster.binaries):
            _out.print(f"{part.name:24} {part.log}", soft_wrap=True)
        return
    argv = ["tail", f"--lines={lines}", *(["--follow=name"] if follow else []), str(cluster.log(component))]
    raise typer.Exit(subprocess.run(argv, check=False).returncode)


def _ready(cluster: Cluster) -> str:
    """Real nodes by name, fake ones by number."""
    try:
        ready = cluster.ready_nodes()
    except LocalError:
        return "none"  # the table above says that the API server is down
    fake = set(cluster.layout.fake_node_names)
    real = ", ".join(name for name in ready if name not in fake) or "none"
    return f"{real}; fake ones: {len(fake & set(ready))} of {len(fake)}" if fake else real


def _table(running: dict[str, bool]) -> Table:
    table = Table("component", "state", box=None)
    for name, runs in running.items():
        table.add_row(name, "[green]running[/]" if runs else "[red]not running[/]")
    return table


def _consent(*, yes: bool) -> bool:
    """Ask once, and only when it matters and somebody can answer."""
    if yes or os.environ.get("CI", "").lower() in ("1", "true"):
        return True
    packages = sorted({m.package for m in needs.judge(needs.look()) if m.package})
    if not packages or not sys.stdin.isatty():
        return False
    return typer.confirm(f"Missing Debian packages: {' '.join(packages)}. Install them?", default=True)
