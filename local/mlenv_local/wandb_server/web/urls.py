"""Addresses of pages, as the real service has them; any name can be in them. Pure."""

from __future__ import annotations

from typing import Any, Protocol
from urllib.parse import quote, unquote


class Row(Protocol):
    """What has values by name: a row of the database."""

    def __getitem__(self, name: str, /) -> Any:
        """The value of that column."""


SIGN_IN = "/login"
SIGN_OUT = "/logout"
STYLE = "/static/style.css"


def path(*parts: str) -> str:
    """A path of names; a slash in a name is not one of the path."""
    return "".join(f"/{quote(part, safe='')}" for part in parts)


def parts(raw: bytes) -> list[str]:
    """The names in a path as it was sent: the inverse of `path`."""
    return [unquote(part) for part in raw.decode("latin-1").split("/") if part]


def project(row: Row) -> str:
    """Of a row of `projects`."""
    return path(row["entity_name"], row["name"])


def run(row: Row) -> str:
    """Of a row of `runs`."""
    return path(row["entity_name"], row["project_name"], "runs", row["name"])


def collection(row: Row) -> str:
    """Of a row of `collections`."""
    return path(row["entity"], row["project"], "artifacts", row["type"], row["name"])


def version(row: Row) -> str:
    """Of a row of `versions`, in its own sequence."""
    where = (row["entity"], row["project"], "artifacts", row["type"], row["sequence"])
    return path(*where, f"v{row['version_index']}")


def member(collection_row: Row, index: int) -> str:
    """Of a version in a collection."""
    return f"{collection(collection_row)}/v{index}"


def after_sign_in(wanted: str) -> str:
    """Where to go on; only ever a path of this server."""
    plain = wanted.startswith("/") and not wanted.startswith("//")
    return wanted if plain and "\\" not in wanted and wanted.isprintable() else "/"
