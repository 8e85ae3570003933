"""Names that users, dashboards and images a year old rely on: they may grow, and never change or go.

A new line is added to the frozen file by UPDATE_GOLDEN=1; a line that goes needs a new version of the API.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
from prometheus_client.metrics import MetricWrapperBase

from mlenv_api import conditions, crd, exitcodes, names, protocol, trainingjob
from mlenv_local.cli import app as local_app
from mlenv_operator.adapters import money_table
from mlenv_operator.adapters.metrics import Metrics
from mlenv_operator.settings import Settings, variable_of
from mlenv_sdk.cli import app as sdk_app

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
FROZEN = Path(__file__).parent / "frozen"


def _fields(path: str, node: dict[str, Any]) -> Iterator[str]:
    kind = "quantity" if node.get("x-kubernetes-int-or-string") else node.get("format", node["type"])
    enum = f" one of {','.join(node['enum'])}" if "enum" in node else ""
    default = f" default {node['default']!r}" if "default" in node else ""
    yield f"{path}: {kind}{enum}{default}"
    for name, child in node.get("properties", {}).items():
        mark = "!" if name in node.get("required", ()) else ""
        yield from _fields(f"{path}.{name}{mark}", child)
    for key, suffix in (("items", "[]"), ("additionalProperties", "{}")):
        if key in node:
            yield from _fields(path + suffix, node[key])


def crd_fields() -> Iterator[str]:
    for kind in crd.KINDS:
        version = crd.definition(kind)["spec"]["versions"][0]
        yield from _fields(f"{kind.kind}/{version['name']}", version["schema"]["openAPIV3Schema"])


def crd_columns() -> Iterator[str]:
    for kind in crd.KINDS:
        for column in kind.columns:
            yield f"{kind.kind} {column.name} {column.path}"


def constants() -> Iterator[str]:
    for name, value in vars(names).items():
        if name.isupper() and isinstance(value, (str, int)):
            yield f"{name}={value}"
    yield f"RESERVED_ENV={','.join(sorted(names.RESERVED_ENV))}"
    yield f"OPEN_ENV={','.join(sorted(names.OPEN_ENV))}"
    yield f"RESERVED_ENV_PREFIXES={','.join(names.RESERVED_ENV_PREFIXES)}"


def messages() -> Iterator[str]:
    for model in (protocol.Beat, protocol.Answer, protocol.Misdirected, protocol.LastWords):
        for side in ("validation", "serialization"):
            schema = model.model_json_schema(by_alias=True, mode=side)
            for owner, node in [(model.__name__, schema), *schema.get("$defs", {}).items()]:
                if "properties" in node:
                    yield from (f"{model.__name__} {owner}.{field}" for field in node["properties"])


def metrics() -> Iterator[str]:
    for metric in vars(Metrics()).values():
        if isinstance(metric, MetricWrapperBase):
            yield f"{metric._type} {metric._name} {','.join(metric._labelnames)}".strip()
    for row in money_table.ROWS:
        yield f"{row.type} {row.name} {','.join(row.labels)}".strip()
    yield from (f"trainingjob_ledger_state state={word}" for word in money_table.STATES)


def operator_settings() -> Iterator[str]:
    for one in dataclasses.fields(Settings):
        yield f"{variable_of(one.name)}: {one.type}"


def chart_values() -> Iterator[str]:
    def paths(node: dict[str, Any], path: str) -> Iterator[str]:
        for name, child in node.get("properties", {}).items():
            yield f"{path}{name}"
            yield from paths(child.get("items", child), f"{path}{name}.")

    yield from paths(json.loads((ROOT / "helm/mlenv/values.schema.json").read_text()), "")


def commands() -> Iterator[str]:
    def walk(path: str, command: Any) -> Iterator[str]:
        yield path
        for option in command.params:
            yield f"{path} {option.opts[0]}"
        for name, child in getattr(command, "commands", {}).items():
            yield from walk(f"{path} {name}", child)

    for name, app in (("mlenv", sdk_app), ("mlenv local", local_app)):
        yield from walk(name, typer.main.get_command(app))


SURFACES: dict[str, Callable[[], Iterator[str]]] = {
    "crd-fields": crd_fields,
    "crd-columns": crd_columns,
    "names": constants,
    "metrics": metrics,
    "operator-settings": operator_settings,
    "chart-values": chart_values,
    "commands": commands,
    "messages": messages,
    "conditions": lambda: (member.value for member in conditions.ConditionType),
    "reasons": lambda: (member.value for member in conditions.Reason),
    "phases": lambda: (member.value for member in trainingjob.Phase),
    "attempt-states": lambda: (member.value for member in trainingjob.AttemptState),
    "launcher-phases": lambda: (member.value for member in protocol.LauncherPhase),
    "orders": lambda: (member.value for member in protocol.Order),
    "exit-codes": lambda: (f"{member.name}={member.value}" for member in exitcodes.ExitCode),
}


def test_the_page_about_metrics_mentions_every_one_with_its_type_and_labels() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    rows = {
        cells[0]: (cells[1], cells[2])
        for line in page.splitlines()
        if len(cells := [one.strip() for one in line.strip("|").split("|")]) >= 4
    }
    for surface in metrics():
        kind, _, rest = surface.partition(" ")
        name, _, labels = rest.partition(" ")
        if kind == "trainingjob_ledger_state":
            continue
        shown = f"`{name}_total`" if kind == "counter" else f"`{name}`"
        named = ", ".join(f"`{label}`" for label in labels.split(",") if label)
        assert rows.get(shown) == (kind, named), f"docs/metrics.md, {shown}: {rows.get(shown)}"


@pytest.mark.parametrize("surface", SURFACES)
def test_a_surface_only_grows(surface: str) -> None:
    path = FROZEN / f"{surface}.txt"
    now = sorted(set(SURFACES[surface]()))
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text("\n".join(now) + "\n")
    frozen = path.read_text().splitlines()
    gone, new = sorted(set(frozen) - set(now)), sorted(set(now) - set(frozen))
    assert not gone, f"a promise is broken: {gone}"
    assert not new, f"a new promise; run with UPDATE_GOLDEN=1 to make it: {new}"
