"""The reference of the API, generated from the models: ``python -m mlenv_api.reference``.

Writes ``docs/api-reference.md``. With ``--check`` it writes nothing and fails when the file is stale.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from mlenv_api import names
from mlenv_api.cel import MUTABLE_WHILE_LIVE, VALIDATIONS
from mlenv_api.conditions import ConditionType, Reason
from mlenv_api.crd import KINDS, Kind, command
from mlenv_api.exitcodes import ExitCode
from mlenv_api.schema import structural
from mlenv_api.sourcedocs import attribute_docs
from mlenv_api.trainingjob import AttemptState, Launcher, Phase

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from enum import Enum

PATH: Final = "docs/api-reference.md"

_INTRO: Final = f"""# API reference

Generated from the models by `python -m mlenv_api.reference`; do not edit. Group `{names.GROUP}`, version
`{names.VERSION}`. What is planned beyond this page stands in `designs/0001-api.md`.
"""

_MUTABLE: Final = f"""
While a job is live only {", ".join(f"`{field}`" for field in sorted(MUTABLE_WHILE_LIVE))} of its spec can be
edited; the rest once `suspend` is true, `managedBy` never.
"""


def render() -> str:
    """The whole page."""
    parts = [_INTRO, *(_kind(kind) for kind in KINDS), *_constants()]
    return "\n".join(part.strip("\n") + "\n" for part in parts)


def _kind(kind: Kind) -> str:
    scope = "namespaced" if kind.namespaced else "cluster-wide"
    lines = [f"## {kind.kind}", "", f"{kind.doc} Short name `{kind.short}`; {scope}."]
    if kind.kind == names.TRAINING_JOB:
        lines += [_MUTABLE.rstrip()]
    if kind.kind != names.CLUSTER_ENVIRONMENT:
        lines += ["", *_tables(kind)]
    else:
        lines += ["", f"Its fields are those of {names.ENVIRONMENT}.", ""]
    lines += [f"Columns of `kubectl get`: {_columns(kind)}."]
    if kind.selectable:
        lines += ["", f"Field selectors: {_words(path[1:] for path in kind.selectable)}."]
    return "\n".join(lines)


def _columns(kind: Kind) -> str:
    return ", ".join(f"{column.name}{' (wide)' if column.wide else ''}" for column in kind.columns)


def _tables(kind: Kind) -> Iterator[str]:
    yield from _type("spec", structural(kind.spec), dict(kind.rules))
    if kind.status is not None:
        yield from _type("status", structural(kind.status, defaults=False), {})


def _type(path: str, node: dict[str, Any], extra: dict[str, Any]) -> Iterator[str]:
    """A table of the fields of one object, its rules, then the objects within."""
    yield f"### {path}"
    yield ""
    yield from [node["description"], ""] if "description" in node else []
    yield from _table(("Field", "Type", "Default", "Bounds", "Meaning"), _rows(node))
    messages = [*_messages(extra), *_messages(node), *_field_messages(node)]
    yield from ["", "Rules:", "", *(f"- {_escape(message)}" for message in messages)] if messages else []
    yield ""
    for name, child in node["properties"].items():
        inner, suffix = (child.get("items", child), "[]") if child["type"] == "array" else (child, "")
        if "properties" in inner:
            yield from _type(f"{path}.{name}{suffix}", inner, {})


def _rows(node: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    required = node.get("required", [])
    for name, child in node["properties"].items():
        default = "required" if name in required else _code(child.get("default"))
        yield f"`{name}`", _type_name(child), default, _bounds(child), child.get("description", "")


def _messages(node: dict[str, Any]) -> list[str]:
    return [rule["message"] for rule in node.get(VALIDATIONS, ())]


def _field_messages(node: dict[str, Any]) -> Iterator[str]:
    """Rules of scalar fields and of the values of maps; objects have tables of their own."""
    for child in node["properties"].values():
        values = child.get("additionalProperties", child)
        yield from [] if "properties" in values else _messages(values)


def _code(value: object) -> str:
    return "" if value is None or value == {} else f"`{json.dumps(value)}`"


def _type_name(node: dict[str, Any]) -> str:
    if node.get("x-kubernetes-int-or-string"):
        return "quantity"
    if node.get("x-kubernetes-preserve-unknown-fields"):
        return "object of core/v1"
    if node["type"] == "array":
        keys = node.get("x-kubernetes-list-map-keys")
        return f"list of {_type_name(node['items'])}" + (f", by `{keys[0]}`" if keys else "")
    if "additionalProperties" in node:
        return f"map of {_type_name(node['additionalProperties'])}"
    return str(node.get("format") or node["type"])


def _bounds(node: dict[str, Any]) -> str:
    if "enum" in node:
        return _words(node["enum"])
    said = []
    low, high = node.get("minimum"), node.get("maximum")
    if low is not None or high is not None:
        said.append(f"{'' if low is None else low}…{'' if high is None else high}")
    if "pattern" in node:
        said.append(f"`{node['pattern']}`")
    for key, unit in (("maxLength", "characters"), ("maxItems", "items"), ("maxProperties", "keys")):
        if key in node:
            said.append(f"≤ {node[key]} {unit}")
    return ", ".join(said)


def _constants() -> Iterator[str]:
    yield "## Conditions\n\nConditions are the truth; `status.phase` is derived from them, for the printer."
    yield _enum("", "Condition", ConditionType)
    yield _enum("### Reasons\n\nOf conditions, ended attempts and events.\n", "Reason", Reason)
    yield _enum("### Phases\n", "Phase", Phase)
    yield _enum("### States of an attempt\n", "State", AttemptState)
    yield _enum("### Launchers\n", "Launcher", Launcher)
    yield _names("## Labels\n", "Label", ("LABEL_",))
    yield _names("## Annotations and finalizers\n", "Key", ("ANNOTATION_", "ACCOUNTED_"))
    yield _names("## Environment of the trainer container\n", "Variable", ("ENV_",))
    yield (
        f"Reserved, in jobs and environments: {_words(sorted(names.RESERVED_ENV))}, and every name that"
        f" begins with {_words(names.RESERVED_ENV_PREFIXES)}, but for {_words(sorted(names.OPEN_ENV))}."
    )
    yield _enum("## Exit codes\n", "Code", ExitCode)


def _enum(head: str, column: str, owner: type[Enum]) -> str:
    docs = attribute_docs(owner)
    rows = ((f"`{member.value}`", docs.get(member.name, "").replace("``", "`")) for member in owner)
    return "\n".join([head, *_table((column, "Meaning"), rows)])


def _names(head: str, column: str, prefixes: tuple[str, ...]) -> str:
    docs = attribute_docs(names)
    rows = (
        (f"`{value}`", docs.get(name, "").replace("``", "`"))
        for name, value in vars(names).items()
        if name.startswith(prefixes) and not name.endswith("_VALUE")
    )
    return "\n".join([head, *_table((column, "Meaning"), rows)])


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for row in (head, ("---",) * len(head), *rows):
        yield "| " + " | ".join(cell.replace("|", "\\|").strip() for cell in row) + " |"


def _words(words: Iterable[object]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _escape(text: str) -> str:
    """What stands in angle brackets would be taken for HTML."""
    return text.replace("<", "&lt;").replace(">", "&gt;")


def files() -> dict[str, str]:
    """The generated file, by its path from the root of the repository."""
    return {PATH: render()}


if __name__ == "__main__":
    raise SystemExit(command(files(), "mlenv_api.reference"))
