from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
from pydantic import Field
from pydantic import create_model as model

from mlenv_api.base import Model
from mlenv_api.crd import KINDS, definition
from mlenv_api.schema import structural

if TYPE_CHECKING:
    from collections.abc import Iterator


class Colour(StrEnum):
    RED = "Red"
    BLUE = "Blue"


class Inner(Model):
    """The inner one."""

    size: int = Field(default=2, ge=1, le=9)
    """How big."""


class Plain(Model):
    """No default within."""

    tags: tuple[str, ...] = ()


class Outer(Model):
    """The outer one."""

    inner: Inner = Inner()
    maybe: Inner | None = None
    """Perhaps."""
    plain: Plain = Plain()
    colour: Colour = Colour.RED
    only: Literal["One"] = "One"
    long: int = 0
    note: str = ""
    words: tuple[str, ...] = ("a",)
    needed: str


@pytest.fixture
def outer() -> dict[str, Any]:
    properties: dict[str, Any] = structural(Outer)["properties"]
    return properties


def test_references_are_replaced_and_keep_their_own_words(outer: dict[str, Any]) -> None:
    assert outer["maybe"] == {
        "type": "object",
        "description": "Perhaps.",
        "properties": {
            "size": {
                "type": "integer",
                "format": "int32",
                "minimum": 1,
                "maximum": 9,
                "default": 2,
                "description": "How big.",
            }
        },
    }


def test_an_object_defaults_to_empty_only_where_a_default_within_is_to_be_applied(
    outer: dict[str, Any],
) -> None:
    assert outer["inner"]["default"] == {}
    assert "default" not in outer["plain"]


def test_defaults_of_scalars_and_lists(outer: dict[str, Any]) -> None:
    assert outer["colour"]["default"] == "Red"
    assert outer["words"]["default"] == ["a"]
    assert "default" not in outer["note"]  # an empty text is no news


def test_enums_and_constants(outer: dict[str, Any]) -> None:
    assert outer["colour"]["enum"] == ["Red", "Blue"]
    assert outer["only"]["enum"] == ["One"]


def test_integers_without_a_small_maximum_are_int64(outer: dict[str, Any]) -> None:
    assert outer["long"]["format"] == "int64"


def test_a_status_has_no_defaults() -> None:
    assert not [path for path, node in _walk(structural(Outer, defaults=False)) if "default" in node]


def test_unions_are_refused() -> None:
    either = model("Either", __base__=Model, field=(int | str, ...))
    with pytest.raises(ValueError, match="no unions"):
        structural(either)


def test_needed_fields(outer: dict[str, Any]) -> None:
    assert structural(Outer)["required"] == ["needed"]
    assert "default" not in outer["needed"]


def test_bounds_survive() -> None:
    bounded = model("Bounded", __base__=Model, field=(Annotated[str, Field(max_length=3)], ...))
    assert structural(bounded)["properties"]["field"]["maxLength"] == 3


def _walk(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from _walk(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            yield from _walk(node[key], f"{path}[]")


def _schemas() -> Iterator[tuple[str, dict[str, Any]]]:
    for kind in KINDS:
        root = definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        for path, node in _walk(root):
            if not path.startswith(".metadata") and path not in {".apiVersion", ".kind"}:
                yield f"{kind.kind}{path}", node


ALL = dict(_schemas())


@pytest.mark.parametrize("path", ALL)
def test_every_field_is_bounded_and_described(path: str) -> None:
    node = ALL[path]
    assert not {"$ref", "anyOf", "oneOf", "allOf", "title", "propertyNames"} & set(node)
    if node.get("type") == "array":
        assert node["maxItems"] <= 1024
    if node.get("type") == "string":
        assert "maxLength" in node or "enum" in node or node.get("format") == "date-time"
    if "additionalProperties" in node or "x-kubernetes-preserve-unknown-fields" in node:
        assert node["maxProperties"] <= 64
    if node.get("type") == "integer":
        assert node["format"] in {"int32", "int64"}
    if not path.endswith("[]"):
        assert node.get("description"), "say what it is"


def test_no_floats() -> None:
    assert not [path for path, node in ALL.items() if node.get("type") == "number"]
