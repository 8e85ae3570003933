"""The GraphQL side: one schema of all SDL files, documents parsed and validated once, telling errors."""

from __future__ import annotations

import importlib
import logging
import pkgutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ariadne import make_executable_schema
from graphql import (
    ExecutionResult,
    GraphQLError,
    GraphQLInputObjectType,
    OperationDefinitionNode,
    execute_sync,
    get_named_type,
    parse,
    type_from_ast,
    validate,
)

from mlenv_local.wandb_server import resolvers
from mlenv_local.wandb_server.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from graphql import DocumentNode, GraphQLInputType, GraphQLSchema

    from mlenv_local.wandb_server.context import Context

SDL = Path(__file__).parent / "schema"
DOCUMENTS = 512
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed document, what it is called, and what is wrong with it."""

    name: str
    node: DocumentNode | None
    operation: OperationDefinitionNode | None
    errors: tuple[str, ...]


class Schema:
    """The executable schema and the documents seen so far."""

    def __init__(self) -> None:
        self.graphql = build_schema()
        self.document = lru_cache(maxsize=DOCUMENTS)(self._document)

    def execute(self, document: Document, variables: Mapping[str, Any], context: Context) -> dict[str, Any]:
        """Run a document; blocks. The answer is always GraphQL's form, errors included."""
        if document.node is None or document.operation is None or document.errors:
            return {"data": None, "errors": [{"message": text} for text in document.errors]}
        result = execute_sync(
            self.graphql,
            document.node,
            context_value=context,
            variable_values=self._pruned(document.operation, variables),
            operation_name=document.operation.name.value if document.operation.name else None,
        )
        return _answer(result)

    def _document(self, text: str, operation: str) -> Document:
        try:
            node = parse(text)
        except GraphQLError as error:
            return Document(operation, None, None, (f"The request is no GraphQL: {error.message}",))
        found = _operation(node, operation)
        if found is None:
            return Document(operation, None, None, (f"The document has no operation {operation!r}.",))
        name = found.name.value if found.name else found.operation.value
        errors = validate(self.graphql, node)
        return Document(name, node, found, tuple(_unserved(name, error) for error in errors))

    def _pruned(self, operation: OperationDefinitionNode, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Without null input fields that the schema lacks: clients send such, and mean nothing."""
        kept = dict(variables)
        for definition in operation.variable_definitions or ():
            name = definition.variable.name.value
            if name in kept:
                kind = type_from_ast(self.graphql, definition.type)
                kept[name] = _prune(kept[name], kind)
        return kept


def build_schema() -> GraphQLSchema:
    """One schema of every SDL file and every resolver module."""
    files = sorted(SDL.glob("*.graphql"))
    return make_executable_schema([file.read_text(encoding="utf-8") for file in files], *_bindables())


def _bindables() -> Iterator[Any]:
    for module in pkgutil.iter_modules(resolvers.__path__, f"{resolvers.__name__}."):
        yield from getattr(importlib.import_module(module.name), "BINDABLES", ())


def _operation(node: DocumentNode, name: str) -> OperationDefinitionNode | None:
    """The operation of that name; without a name, the only one (the public API sends an empty name)."""
    found = [one for one in node.definitions if isinstance(one, OperationDefinitionNode)]
    if name:
        found = [one for one in found if one.name and one.name.value == name]
    return found[0] if len(found) == 1 else None


def _unserved(operation: str, error: GraphQLError) -> str:
    return (
        f"The local W&B server does not serve this form of the operation {operation!r}: {error.message}"
        " See docs/wandb-server.md for what it serves."
    )


def _prune(value: Any, kind: GraphQLInputType | Any) -> Any:
    named = get_named_type(kind) if kind is not None else None
    if isinstance(value, list):
        return [_prune(one, named) for one in value]
    if not isinstance(value, dict) or not isinstance(named, GraphQLInputObjectType):
        return value
    fields = named.fields
    return {
        key: _prune(one, fields[key].type) if key in fields else one
        for key, one in value.items()
        if key in fields or one is not None
    }


def _answer(result: ExecutionResult) -> dict[str, Any]:
    answer: dict[str, Any] = {"data": result.data}
    if result.errors:
        answer["errors"] = [_formatted(error) for error in result.errors]
    return answer


def _formatted(error: GraphQLError) -> dict[str, Any]:
    cause = error.original_error
    if cause is None or isinstance(cause, GraphQLError | ServerError):
        return {"message": str(cause or error.message), "path": error.path}
    _log.error("A resolver failed at %s", error.path, exc_info=cause)
    where = ".".join(str(part) for part in error.path or ())
    return {
        "message": f"The server failed at {where} ({type(cause).__name__}); its log has more.",
        "path": error.path,
    }
