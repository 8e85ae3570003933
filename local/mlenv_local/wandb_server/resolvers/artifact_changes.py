"""Changing what is there: metadata, aliases, tags, uses, links, collections, deletion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ariadne import MutationType

from mlenv_local.wandb_server import ids, runs
from mlenv_local.wandb_server.artifacts import collections, lineage, linking, links, versions, views
from mlenv_local.wandb_server.errors import NotFound, Refused

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from mlenv_local.wandb_server.context import Context, Info, Raw

mutation = MutationType()


def _artifact(db: sqlite3.Connection, context: Context, text: str) -> sqlite3.Row:
    return versions.to_write(db, context.user, ids.parse_int("Artifact", text))


@mutation.field("updateArtifact")
def update_artifact(_: None, info: Info, input: Raw) -> Raw:
    """Set what is given, leave the rest."""
    context: Context = info.context
    with context.services.store.write() as db:
        row = _artifact(db, context, input["artifactID"])
        versions.update(db, row, input)
        versions.delete_tags(db, row["id"], _tags(input.get("tagsToDelete")))
        versions.add_tags(db, row["id"], _tags(input.get("tagsToAdd")))
        if input.get("aliases"):
            member = links.membership(db, row["sequence_id"], row["id"])
            links.set_aliases(db, member, [one["alias"] for one in input["aliases"]])
        return {"artifact": views.artifact(versions.get(db, context.user, row["id"]))}


@mutation.field("deleteArtifact")
def delete_artifact(_: None, info: Info, input: Raw) -> Raw:
    """Delete a version and its contents."""
    context: Context = info.context
    with context.services.store.write() as db:
        row = _artifact(db, context, input["artifactID"])
        versions.delete(db, row, delete_aliases=bool(input.get("deleteAliases")))
        return {"artifact": views.artifact(versions.get(db, context.user, row["id"]))}


@mutation.field("addAliases")
def add_aliases(_: None, info: Info, input: Raw) -> Raw:
    """Let aliases name this version from now on, all at once, whatever they named before."""
    return _with_aliases(info.context, input, links.set_aliases)


@mutation.field("deleteAliases")
def delete_aliases(_: None, info: Info, input: Raw) -> Raw:
    """Take aliases away from this version."""
    return _with_aliases(info.context, input, links.delete_aliases)


def _with_aliases(context: Context, asked: Raw, change: Callable[..., None]) -> Raw:
    with context.services.store.write() as db:
        artifact = versions.get(db, context.user, ids.parse_int("Artifact", asked["artifactID"]))
        for one in asked["aliases"]:
            path = (one["entityName"], one["projectName"], one["artifactCollectionName"])
            collection = collections.named(db, context.user, *path)
            change(db, links.membership(db, collection["id"], artifact["id"]), [one["alias"]])
    return {"success": True}


@mutation.field("useArtifact")
def use_artifact(_: None, info: Info, input: Raw) -> Raw:
    """A run has used a version."""
    context: Context = info.context
    with context.services.store.write() as db:
        row = versions.get(db, context.user, ids.parse_int("Artifact", input["artifactID"]))
        run = runs.by_path(db, context.user, input["entityName"], input["projectName"], input["runName"])
        lineage.use(db, run["id"], row, input.get("usedAs"))
        return {"artifact": views.artifact(row)}


@mutation.field("linkArtifact")
def link_artifact(_: None, info: Info, input: Raw) -> Raw:
    """Make a version a member of a portfolio, which is made if need be."""
    context: Context = info.context
    with context.services.store.write() as db:
        row = versions.get(db, context.user, _linked(db, input))
        portfolio = linking.portfolio(db, context.user, row, input)
        member = linking.link(db, row, portfolio, [one["alias"] for one in input.get("aliases") or ()])
        return {"versionIndex": member["version_index"], "artifactMembership": views.membership(member)}


def _linked(db: sqlite3.Connection, asked: Raw) -> int:
    if asked.get("artifactID"):
        return ids.parse_int("Artifact", asked["artifactID"])
    found = versions.of_client(db, asked["clientID"]) if asked.get("clientID") else None
    if found is None:
        raise NotFound("The artifact to link is not here: log it, and wait for it.")
    return found


@mutation.field("unlinkArtifact")
def unlink_artifact(_: None, info: Info, input: Raw) -> Raw:
    """End a link; the version stays where it was logged."""
    context: Context = info.context
    with context.services.store.write() as db:
        row = ids.parse_int("ArtifactPortfolio", input["artifactPortfolioID"])
        portfolio = collections.by_id(db, context.user, row, collections.PORTFOLIO)
        links.leave(db, links.membership(db, portfolio["id"], ids.parse_int("Artifact", input["artifactID"])))
    return {"success": True}


@mutation.field("updateArtifactSequence")
def update_sequence(_: None, info: Info, input: Raw) -> Raw:
    """Rename or describe a collection of versions."""
    return _changed(info.context, collections.SEQUENCE, input["artifactSequenceID"], _described(input))


@mutation.field("updateArtifactPortfolio")
def update_portfolio(_: None, info: Info, input: Raw) -> Raw:
    """Rename or describe a collection of links."""
    return _changed(info.context, collections.PORTFOLIO, input["artifactPortfolioID"], _described(input))


@mutation.field("moveArtifactSequence")
def move_sequence(_: None, info: Info, input: Raw) -> Raw:
    """Give a collection another type."""
    name = input["destinationArtifactTypeName"]
    return _changed(
        info.context,
        collections.SEQUENCE,
        input["artifactSequenceID"],
        lambda db, row: collections.move(db, row, name),
    )


@mutation.field("deleteArtifactSequence")
def delete_sequence(_: None, info: Info, input: Raw) -> Raw:
    """Delete a collection with all its versions."""
    return _changed(
        info.context, collections.SEQUENCE, input["artifactSequenceID"], versions.delete_collection
    )


@mutation.field("deleteArtifactPortfolio")
def delete_portfolio(_: None, info: Info, input: Raw) -> Raw:
    """Delete a collection of links; the versions stay."""
    return _changed(
        info.context, collections.PORTFOLIO, input["artifactPortfolioID"], versions.delete_collection
    )


def _described(asked: Raw) -> Callable[[sqlite3.Connection, sqlite3.Row], None]:
    return lambda db, row: collections.update(db, row, asked.get("name"), asked.get("description"))


def _changed(
    context: Context, kind: str, text: str, change: Callable[[sqlite3.Connection, sqlite3.Row], None]
) -> Raw:
    names = {collections.SEQUENCE: "ArtifactSequence", collections.PORTFOLIO: "ArtifactPortfolio"}
    row = ids.parse_int(names[kind], text)
    with context.services.store.write() as db:
        change(db, collections.by_id(db, context.user, row, kind))
        return {"artifactCollection": views.collection(collections.by_id(db, context.user, row, kind))}


@mutation.field("createArtifactCollectionTagAssignments")
def add_collection_tags(_: None, info: Info, input: Raw) -> Raw:
    """Tag a collection."""
    with info.context.services.store.write() as db:
        names = collections.add_tags(db, _named(db, info.context, input), _tags(input["tags"]))
    return {"tags": [views.tag(name) for name in names]}


@mutation.field("deleteArtifactCollectionTagAssignments")
def delete_collection_tags(_: None, info: Info, input: Raw) -> Raw:
    """Take tags from a collection."""
    with info.context.services.store.write() as db:
        collections.delete_tags(db, _named(db, info.context, input), _tags(input["tags"]))
    return {"success": True}


def _named(db: sqlite3.Connection, context: Context, asked: Raw) -> sqlite3.Row:
    path = (asked["entityName"], asked["projectName"], asked["artifactCollectionName"])
    return collections.named(db, context.user, *path)


def _tags(asked: list[Raw] | None) -> list[str]:
    if any(one.get("tagCategoryName") for one in asked or ()):
        raise Refused("Categories of tags are not served.")
    return [one["tagName"] for one in asked or ()]


BINDABLES = [mutation]
