"""The base of every model: frozen values, camelCase on the wire, unknown fields ignored."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Model(BaseModel):
    """A frozen value with camelCase names on the wire.

    Unknown fields are ignored: the API server prunes what the schema does not know, and messages of a
    newer version must stay readable.
    """

    model_config = ConfigDict(
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        use_attribute_docstrings=True,
        serialize_by_alias=True,
    )

    def wire(self) -> dict[str, Any]:
        """This value as JSON-ready data, without what is unset (null)."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
