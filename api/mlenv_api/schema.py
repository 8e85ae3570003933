"""Structural OpenAPI schemas, as CustomResourceDefinitions need them, from pydantic's JSON schemas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pydantic import BaseModel

Schema = dict[str, Any]

_INT32_MAX: Final = 2**31 - 1
_DROPPED: Final = frozenset({"title", "propertyNames", "default", "$defs"})
"""``propertyNames`` is unknown to Kubernetes; defaults are decided by ``_default``."""


def structural(model: type[BaseModel], *, defaults: bool = True) -> Schema:
    """The schema of a model without references, nulls and titles.

    Args:
        model: what to describe.
        defaults: False leaves defaults out, as a status needs: what was not observed is not there.
    """
    raw = model.model_json_schema(by_alias=True, mode="validation")
    return _clean(raw, raw.get("$defs", {}), defaults=defaults)


def _clean(raw: Schema, defs: Schema, *, defaults: bool) -> Schema:
    node = _not_null(_resolve(raw, defs), defs)
    out = {key: value for key, value in node.items() if key not in _DROPPED}
    if "const" in out:
        out["enum"] = [out.pop("const")]
    if out.get("type") == "integer":
        out["format"] = "int32" if out.get("maximum", _INT32_MAX + 1) <= _INT32_MAX else "int64"
    if "properties" in out:
        out["properties"] = {
            name: _clean(child, defs, defaults=defaults) for name, child in node["properties"].items()
        }
    if "items" in out:
        out["items"] = _clean(node["items"], defs, defaults=defaults)
    _clean_map(out, defs, defaults=defaults)
    return out | (_default(node, out) if defaults else {})


def _clean_map(out: Schema, defs: Schema, *, defaults: bool) -> None:
    """Typed values stay; ``additionalProperties: true`` says nothing beside preserve-unknown-fields."""
    values = out.pop("additionalProperties", None)
    if isinstance(values, dict):
        out["additionalProperties"] = _clean(values, defs, defaults=defaults)


def _resolve(raw: Schema, defs: Schema) -> Schema:
    """The referenced schema under what the reference adds (its own description, its default)."""
    if "$ref" not in raw:
        return raw
    target: Schema = defs[raw["$ref"].removeprefix("#/$defs/")]
    return target | {key: value for key, value in raw.items() if key != "$ref"}


def _not_null(node: Schema, defs: Schema) -> Schema:
    """``X or null`` is an optional X; integer or string is Kubernetes' own; nothing else may be a union."""
    if "anyOf" not in node:
        return node
    rest = {key: value for key, value in node.items() if key != "anyOf"}
    if node.get("x-kubernetes-int-or-string"):
        return rest
    options = [option for option in node["anyOf"] if option.get("type") != "null"]
    if len(options) != 1:
        raise ValueError(f"A structural schema has no unions; found one of {node['anyOf']}")
    return _resolve(options[0], defs) | rest


def _default(node: Schema, out: Schema) -> Schema:
    """Defaults of scalars; ``{}`` for objects within which something has a default, so that it is applied."""
    if "default" not in node or node["default"] is None:
        return {}
    if out.get("type") in {"array", "object"}:
        nested = out.get("properties", {}).values()
        return {"default": {}} if any("default" in child for child in nested) else _listed(node["default"])
    return {"default": node["default"]} if node["default"] != "" else {}


def _listed(value: object) -> Schema:
    """Empty lists and maps are no news and are left out of stored objects."""
    return {"default": value} if isinstance(value, list) and value else {}
