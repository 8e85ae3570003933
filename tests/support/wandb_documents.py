"""Every GraphQL document of the installed wandb package: generated, written by hand, in wandb-core."""

from __future__ import annotations

import ast
import importlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import wandb
from go_types import Field, TypeSection
from graphql import FragmentDefinitionNode, OperationDefinitionNode, parse, print_ast
from wandb._pydantic import GQLInput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from graphql import DefinitionNode, DocumentNode

PACKAGE = Path(wandb.__file__).parent
CORE = PACKAGE / "bin" / "wandb-core"

_STARTS = re.compile(r"^\s*(?:query|mutation|subscription)\b[^{}]*\{", re.MULTILINE)
_IN_CORE = re.compile(rb"\b(query|mutation|subscription|fragment)\s+\w+\s*(?:\(|\{|on )")
_HOLE = "\0"

# What the client puts into the holes of documents that it puts together at run time; "@NAME" is a constant of
# the module. A document with holes that is not listed here is an error, not something to skip.
_RUNS = "apis/public/runs.py"
_LAUNCH = "sdk/launch/api.py"
FILLINGS: dict[tuple[str, str], tuple[tuple[str, ...], ...]] = {
    ("apis/public/files.py", "RunFiles"): (("@FILE_FRAGMENT",),),
    (_RUNS, "Runs"): (
        ("RunFragment", "@RUN_FRAGMENT"),
        ("LightweightRunFragment", "@LIGHTWEIGHT_RUN_FRAGMENT"),
    ),
    (_RUNS, "Run"): (
        ("RunFragment", "@RUN_FRAGMENT"),
        ("LightweightRunFragment", "@LIGHTWEIGHT_RUN_FRAGMENT"),
    ),
    (_RUNS, "UpsertBucket"): (("@RUN_FRAGMENT",),),
    (_RUNS, "DeleteRun"): (("", ""), ("$deleteArtifacts: Boolean", "deleteArtifacts: $deleteArtifacts")),
    (_RUNS, "RunFullHistory"): (("history",), ("events",)),
    ("sdk/artifacts/_gqlutils.py", "UseArtifact"): (
        (
            "$entityName: String!, $projectName: String!, $runName: String!, $artifactID: ID!",
            "entityName: $entityName, projectName: $projectName, runName: $runName, artifactID: $artifactID",
        ),
        (
            (
                "$entityName: String!, $projectName: String!, $runName: String!, $artifactID: ID!,"
                "$usedAs: String, $artifactEntityName: String, $artifactProjectName: String"
            ),
            (
                "entityName: $entityName, projectName: $projectName, runName: $runName,"
                "artifactID: $artifactID,"
                "usedAs: $usedAs, artifactEntityName: $artifactEntityName,"
                "artifactProjectName: $artifactProjectName"
            ),
        ),
    ),
    (_LAUNCH, "pushToRunQueueByName"): (
        (
            (
                "$entityName: String!, $projectName: String!, $queueName: String!, $runSpec: JSONString!,"
                "$priority: Int, $templateVariableValues: JSONString"
            ),
            (
                "entityName: $entityName, projectName: $projectName, queueName: $queueName,"
                "runSpec: $runSpec,"
                "priority: $priority, templateVariableValues: $templateVariableValues"
            ),
        ),
    ),
    (_LAUNCH, "pushToRunQueue"): (
        (
            "$queueID: ID!, $runSpec: JSONString!, $templateVariableValues: JSONString",
            "queueID: $queueID, runSpec: $runSpec, templateVariableValues: $templateVariableValues",
        ),
    ),
    (_LAUNCH, "createLaunchAgent"): (
        (
            (
                "$entity: String!, $project: String!, $queues: [ID!]!, $hostname: String!,"
                "$agentConfig: JSONString, $version: String"
            ),
            (
                "entityName: $entity, projectName: $project, runQueues: $queues, hostname: $hostname,"
                "agentConfig: $agentConfig, version: $version"
            ),
        ),
    ),
}


@dataclass(frozen=True)
class Operation:
    """One operation with all its fragments, and where it was found."""

    source: str
    name: str
    text: str

    @property
    def kind(self) -> str:
        """Query or mutation."""
        return self.text.partition(" ")[0]


@cache
def operations() -> tuple[Operation, ...]:
    """Every document, sorted; the same text in one place counts once."""
    return tuple(sorted({*of_python(), *of_core()}, key=lambda one: (one.source, one.name, one.text)))


def of_python() -> Iterator[Operation]:
    """The Python package's, from its source."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name, source = path.relative_to(PACKAGE).as_posix(), path.read_text(encoding="utf-8")
        if not _STARTS.search(source):
            continue
        for text in _documents_in(ast.parse(source), name):
            yield from _operations_in(parse(text), name)


def _documents_in(tree: ast.Module, path: str) -> Iterator[str]:
    for template in _templates(tree):
        if not _STARTS.search(template.replace(_HOLE, "")):
            continue
        if _HOLE not in template:
            yield template
            continue
        name = re.search(r"(?:query|mutation)\s+(\w+)", template)
        key = (path, name.group(1) if name else "")
        if key not in FILLINGS:
            raise LookupError(f"{path} puts {key[1] or 'a document'} together: say in FILLINGS from what")
        for filling in FILLINGS[key]:
            yield _filled(template, filling, path)


def _templates(tree: ast.Module) -> Iterator[str]:
    """String expressions with a hole for what is put in at run time; without docstrings."""
    skipped = {id(node) for one in ast.walk(tree) for node in _no_texts_of_their_own(one)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.JoinedStr):
            parts = (one.value if isinstance(one, ast.Constant) else _HOLE for one in node.values)
            yield "".join(str(part) for part in parts)
        elif isinstance(node, ast.Call) and (text := _formatted(node)):
            yield text.replace("{}", _HOLE).replace("{{", "{").replace("}}", "}")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _no_texts_of_their_own(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.JoinedStr):
        yield from (part for part in ast.walk(node) if part is not node)
    elif isinstance(node, ast.Call) and _formatted(node):
        yield from ast.walk(node.func)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        yield node.value


def _formatted(call: ast.Call) -> str | None:
    """The template of `"...".format(...)`."""
    target = call.func.value if isinstance(call.func, ast.Attribute) and call.func.attr == "format" else None
    return target.value if isinstance(target, ast.Constant) and isinstance(target.value, str) else None


def _filled(template: str, filling: tuple[str, ...], path: str) -> str:
    module = "wandb." + path.removesuffix(".py").replace("/", ".")
    for piece in filling:
        text = getattr(importlib.import_module(module), piece[1:]) if piece.startswith("@") else piece
        template = template.replace(_HOLE, text, 1)
    if _HOLE in template:
        raise LookupError(f"{path}: {filling} leaves something out of {template}")
    return template


def of_core() -> Iterator[Operation]:
    """wandb-core's. genqlient keeps each document as one constant: an operation, then its fragments."""
    data = CORE.read_bytes()
    starts = [match.start() for match in _IN_CORE.finditer(data)]
    definitions = [definition for start in starts for definition in parse(_balanced(data, start)).definitions]
    fragments = {one.name.value: one for one in definitions if isinstance(one, FragmentDefinitionNode)}
    for one in definitions:
        if isinstance(one, OperationDefinitionNode):
            yield _operation(one, fragments, "wandb-core")


def _balanced(data: bytes, start: int) -> str:
    """From a keyword to the brace that closes its selection. Go keeps constants without an end mark."""
    depth, at = 0, data.index(b"{", start)
    arguments = data.find(b"(", start, at)
    if arguments != -1:
        at = data.index(b"{", data.index(b")", arguments))
    for end in range(at, len(data)):
        depth += {ord("{"): 1, ord("}"): -1}.get(data[end], 0)
        if depth == 0:
            return data[start : end + 1].decode()
    raise ValueError(f"a document at {start} has no end")


def _operations_in(document: DocumentNode, source: str) -> Iterator[Operation]:
    fragments = {
        one.name.value: one for one in document.definitions if isinstance(one, FragmentDefinitionNode)
    }
    for one in document.definitions:
        if isinstance(one, OperationDefinitionNode):
            yield _operation(one, fragments, source)


def _operation(
    node: OperationDefinitionNode, fragments: dict[str, FragmentDefinitionNode], source: str
) -> Operation:
    wanted: dict[str, DefinitionNode] = {}
    pending = _spread(print_ast(node))
    while pending:
        name = pending.pop()
        if name not in wanted:
            wanted[name] = fragments[name]
            pending |= _spread(print_ast(fragments[name]))
    text = "\n\n".join(print_ast(one) for one in (node, *(wanted[name] for name in sorted(wanted))))
    return Operation(source, node.name.value if node.name else "", text)


def _spread(text: str) -> set[str]:
    return set(re.findall(r"\.\.\.\s*(?!on\b)(\w+)", text))


@dataclass(frozen=True)
class InputField:
    """A field of an input type as the client knows it."""

    source: str
    type: str
    field: str
    required: bool


def input_fields() -> Iterator[InputField]:
    """Every field of every input type that the client builds, in Go and in Python."""
    for name, fields in core_inputs().items():
        for field in fields:
            yield InputField("wandb-core", name, field.json, field.always_sent and not field.nullable)
    yield from _python_inputs()


def core_inputs() -> dict[str, tuple[Field, ...]]:
    """wandb-core's input types, without those that hold a document's variables (they begin with __)."""
    structs = TypeSection(CORE).structs("gql")
    return {name: of for name, of in structs.items() if name.endswith("Input") and not name.startswith("__")}


def core_variables() -> dict[str, tuple[str, ...]]:
    """The variables that wandb-core sends with each operation."""
    structs = TypeSection(CORE).structs("gql")
    names = (name for name in structs if name.startswith("__") and name.endswith("Input"))
    return {name[2:].removesuffix("Input"): tuple(one.json for one in structs[name]) for name in names}


def _python_inputs() -> Iterator[InputField]:
    for path in sorted(PACKAGE.rglob("_generated/input_types.py")):
        source = path.relative_to(PACKAGE).as_posix()
        module = importlib.import_module("wandb." + source.removesuffix(".py").replace("/", "."))
        for name, model in sorted(vars(module).items()):
            if isinstance(model, type) and issubclass(model, GQLInput) and model is not GQLInput:
                for attribute, one in model.model_fields.items():
                    yield InputField(source, name, one.alias or attribute, one.is_required())
