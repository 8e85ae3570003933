"""Bounded scalar and object types: every string and list of the API has an end (CEL cost, etcd size)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from mlenv_api import cel

MAX_NODES = 1024

Text = Annotated[str, Field(max_length=32768)]
"""A sentence, an argument, the value of a variable."""
Sentence = Annotated[str, Field(max_length=2048)]
Name63 = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
"""An RFC-1123 label."""
Name253 = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
"""An RFC-1123 subdomain: the name of an object."""
EnvName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Image = Annotated[str, Field(min_length=1, max_length=1024)]
Path = Annotated[str, Field(min_length=1, max_length=1024)]
LabelKey = Annotated[str, Field(min_length=1, max_length=317)]
Quantity = Annotated[
    int | str,
    Field(json_schema_extra={"x-kubernetes-int-or-string": True, "maxLength": 64, **cel.QUANTITY}),
]
"""A Kubernetes quantity, as ``500m`` or ``4Gi``; not negative."""
Resources = Annotated[dict[LabelKey, Quantity], Field(max_length=32)]
Dollars = Annotated[str, Field(max_length=20, pattern=r"^(0|[1-9][0-9]{0,8})(\.[0-9]{1,9})?$")]
"""US dollars as a decimal number, as 55.04: text, because a float is not exact."""
Balance = Annotated[str, Field(max_length=21, pattern=r"^-?(0|[1-9][0-9]{0,8})(\.[0-9]{1,9})?$")]
"""The same with a sign: corrections may take away more than was spent."""
RawObject = Annotated[
    dict[str, Any],
    Field(
        max_length=64,
        json_schema_extra={"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    ),
]
"""An object of core/v1 that the API server validates when the pod is created."""


def keyed_by(field: str) -> dict[str, Any]:
    """Extra schema of a list whose entries are merged, and must be unique, by one field."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [field]}
