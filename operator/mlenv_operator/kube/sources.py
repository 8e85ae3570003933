"""Where informers and sweeps read from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mlenv_operator.kube.client import EVERYTHING, Client, ListPage, Selection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mlenv_operator.kube.resources import Resource


@dataclass(frozen=True, slots=True)
class KindSource:
    """One kind, or a selection of it, as an informer's Source."""

    client: Client
    resource: Resource
    selection: Selection = EVERYTHING

    def pages(self) -> AsyncIterator[ListPage]:
        """The whole selection, page by page."""
        return self.client.list_pages(self.resource, self.selection)

    def watch(self, resource_version: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Events from there on."""
        return self.client.watch(self.resource, resource_version, self.selection)


async def metadata_of(
    client: Client, resource: Resource, selection: Selection = EVERYTHING
) -> AsyncIterator[dict[str, Any]]:
    """The metadata of each selected object, without its body; no more than a page is held at a time."""
    slim = replace(selection, metadata_only=True)
    async for page in client.list_pages(resource, slim):
        for item in page.items:
            yield item["metadata"]


async def list_metadata(client: Client, resource: Resource, selection: Selection = EVERYTHING) -> list[Any]:
    """All of them at once: where they are few, since each brings its managedFields."""
    return [one async for one in metadata_of(client, resource, selection)]
