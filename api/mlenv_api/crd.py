"""The CustomResourceDefinitions, generated from the models: ``python -m mlenv_api.crd``.

Writes ``crds/`` and the chart's copies. With ``--check`` it writes nothing and fails when a file is stale.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlenv_api import cel, names
from mlenv_api.budget import BudgetSpec, BudgetStatus
from mlenv_api.podtemplate import EnvironmentSpec
from mlenv_api.pricebook import PriceBookSpec, PriceBookStatus
from mlenv_api.schema import structural
from mlenv_api.trainingjob import TrainingJobSpec, TrainingJobStatus
from mlenv_api.yamltext import dump

if TYPE_CHECKING:
    from mlenv_api.base import Model

HEADER: Final = "# Generated from the models by `python -m mlenv_api.crd`; do not edit.\n"
KEEP: Final = "helm.sh/resource-policy"


@dataclass(frozen=True, slots=True)
class Column:
    """A printer column of kubectl, from one scalar field."""

    name: str
    path: str
    type: str = "string"
    wide: bool = False
    """Shown with -o wide only."""

    def schema(self) -> dict[str, Any]:
        """The column as an entry of ``additionalPrinterColumns``."""
        wide = {"priority": 1} if self.wide else {}
        return {"name": self.name, "type": self.type, "jsonPath": self.path, **wide}


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of the group."""

    kind: str
    plural: str
    short: str
    namespaced: bool
    doc: str
    spec: type[Model]
    columns: tuple[Column, ...]
    status: type[Model] | None = None
    rules: tuple[tuple[str, Any], ...] = ()
    selectable: tuple[str, ...] = ()
    """Fields for ``kubectl get --field-selector``."""


AGE: Final = Column("Age", ".metadata.creationTimestamp", "date")
_ENVIRONMENT_COLUMNS: Final = (
    Column("Image", ".spec.image"),
    Column("Description", ".spec.description", wide=True),
    AGE,
)

KINDS: Final = (
    Kind(
        names.TRAINING_JOB,
        names.TRAINING_JOBS,
        "tj",
        namespaced=True,
        doc="One training: a program, the gang of pods that runs it, and how it is going.",
        spec=TrainingJobSpec,
        status=TrainingJobStatus,
        columns=(
            Column("Phase", ".status.phase"),
            Column("Ready", ".status.nodes.ready", "integer"),
            Column("Nodes", ".spec.trainer.numNodes", "integer"),
            Column("Attempt", ".status.attempt.number", "integer"),
            Column("Step", ".status.progress.step", "integer"),
            Column("Checkpoint", ".status.checkpoint.sealed.step", "integer", wide=True),
            Column("Restarts", ".status.restarts.total", "integer", wide=True),
            Column("Environment", ".spec.environmentRef.name", wide=True),
            AGE,
        ),
        rules=tuple(cel.TRAINING_JOB.items()),
        selectable=(".spec.environmentRef.name", ".status.phase"),
    ),
    Kind(
        names.ENVIRONMENT,
        names.ENVIRONMENTS,
        "tenv",
        namespaced=True,
        doc="What the jobs of one namespace run in: image, variables, volumes and defaults.",
        spec=EnvironmentSpec,
        columns=_ENVIRONMENT_COLUMNS,
    ),
    Kind(
        names.CLUSTER_ENVIRONMENT,
        names.CLUSTER_ENVIRONMENTS,
        "ctenv",
        namespaced=False,
        doc="What jobs of any namespace run in: image, variables, volumes and defaults.",
        spec=EnvironmentSpec,
        columns=_ENVIRONMENT_COLUMNS,
    ),
    Kind(
        names.PRICE_BOOK,
        names.PRICE_BOOKS,
        "pbook",
        namespaced=False,
        doc="What machines cost: prices with dates, over those that the operator ships.",
        spec=PriceBookSpec,
        status=PriceBookStatus,
        columns=(
            Column("Ready", ".status.conditions[?(@.type=='Ready')].status"),
            Column("Prices", ".status.acceptedPrices", "integer"),
            Column("As of", ".spec.asOf", "date"),
            Column("Source", ".spec.source", wide=True),
            AGE,
        ),
    ),
    Kind(
        names.BUDGET,
        names.BUDGETS,
        "bgt",
        namespaced=False,
        doc="What a team or a use case means to spend in a month, what it spent, and what that comes to.",
        spec=BudgetSpec,
        status=BudgetStatus,
        columns=(
            Column("Team", ".spec.team"),
            Column("Use case", ".spec.useCase"),
            Column("Amount", ".spec.amountUSD"),
            Column("Spent", ".status.spentUSD"),
            Column("Percent", ".status.percent", "integer"),
            Column("Forecast", ".status.forecastUSD"),
            Column("Exceeded", ".status.conditions[?(@.type=='Exceeded')].status"),
            Column("Month", ".status.month", wide=True),
            AGE,
        ),
    ),
)


def _texts(kind: Kind) -> dict[str, Any]:
    """The fields that every object has."""
    return {
        "apiVersion": {"type": "string", "description": f"{names.API_VERSION}."},
        "kind": {"type": "string", "description": f"{kind.kind}."},
        "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 253}}},
    }


def _root(kind: Kind) -> dict[str, Any]:
    properties = _texts(kind) | {"spec": structural(kind.spec)}
    if kind.status is not None:
        # kstatus takes an object without any status for a finished one: -1 says that nobody has looked yet.
        status = structural(kind.status, defaults=False)
        properties["status"] = status | {"default": {"observedGeneration": -1}}
    root = {"type": "object", "description": kind.doc, "required": ["spec"], "properties": properties}
    return root | dict(kind.rules)


def _version(kind: Kind) -> dict[str, Any]:
    version: dict[str, Any] = {"name": names.VERSION, "served": True, "storage": True}
    if kind.status is not None:
        version["subresources"] = {"status": {}}
    if kind.selectable:
        version["selectableFields"] = [{"jsonPath": path} for path in kind.selectable]
    version["additionalPrinterColumns"] = [column.schema() for column in kind.columns]
    return version | {"schema": {"openAPIV3Schema": _root(kind)}}


def definition(kind: Kind) -> dict[str, Any]:
    """The CustomResourceDefinition of one kind."""
    labels = {"app.kubernetes.io/name": "mlenv", "app.kubernetes.io/component": "crd"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{names.GROUP}", "labels": labels},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "names": {
                "kind": kind.kind,
                "listKind": f"{kind.kind}List",
                "plural": kind.plural,
                "singular": kind.kind.lower(),
                "shortNames": [kind.short],
            },
            "versions": [_version(kind)],
        },
    }


def chart_template(text: str) -> str:
    """The definition as a template of the chart: only when asked for, and kept when the chart goes."""
    if "{{" in text:
        raise ValueError("A description holds '{{', which Helm would run")
    head, tail = text.split("metadata:\n", 1)
    keep = f"  {{{{- if .Values.crds.keep }}}}\n  annotations:\n    {KEEP}: keep\n  {{{{- end }}}}\n"
    return f"{{{{- if .Values.crds.install }}}}\n{head}metadata:\n{keep}{tail}{{{{- end }}}}\n"


def files() -> dict[str, str]:
    """Every generated file, by its path from the root of the repository."""
    out = {}
    for kind in KINDS:
        text = HEADER + dump(definition(kind))
        out[f"crds/{kind.plural}.yaml"] = text
        out[f"helm/mlenv/templates/crds/{kind.plural}.yaml"] = chart_template(text)
    return out


def sync(root: Path, wanted: dict[str, str], *, check: bool) -> list[str]:
    """Writes what differs, or with ``check`` only names it.

    Returns:
        Paths that differed, from ``root``.
    """
    stale = [path for path, text in wanted.items() if not _same(root / path, text)]
    for path in [] if check else stale:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(wanted[path], encoding="utf-8")
    return stale


def _same(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


def command(wanted: dict[str, str], module: str) -> int:
    """The command line of a generator: ``[--check]``, run in a checkout of the repository."""
    check = "--check" in sys.argv[1:]
    stale = sync(Path(__file__).parents[2], wanted, check=check)
    verb = "stale, run `python -m " + module + "`:" if check else "written:"
    for path in stale:
        sys.stdout.write(f"{verb} {path}\n")
    return 1 if check and stale else 0


if __name__ == "__main__":
    raise SystemExit(command(files(), "mlenv_api.crd"))
