"""Files of runs: announced, uploaded, listed, deleted."""

from __future__ import annotations

import mimetypes
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from ariadne import MutationType, ObjectType

from mlenv_local.wandb_server import ids, pages, runs
from mlenv_local.wandb_server.clock import iso
from mlenv_local.wandb_server.errors import NotFound, Refused

if TYPE_CHECKING:
    from mlenv_local.wandb_server.blobs import Content
    from mlenv_local.wandb_server.context import Context, Info, Raw

mutation = MutationType()
run_type = ObjectType("Run")
file_type = ObjectType("File")


def slot(run: int, name: str) -> str:
    """Where a run's file is kept; Refused for a name that leads out of the run."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts:
        raise Refused(f"{name!r} is no name of a run's file.")
    return f"run/{run}/{path}"


def file_view(content: Content, name: str, context: Context) -> Raw:
    """A stored content as the schema's File; its URL is good for a while."""
    url = context.services.blobs.download_url(context.base_url, content.sha256, name)
    return {
        "key": content.key,
        "id": ids.make("File", content.key),
        "name": name,
        "directUrl": url,
        "sizeBytes": content.size,
        "mimetype": mimetypes.guess_type(name)[0] or "application/octet-stream",
        "updatedAt": iso(content.updated_ms),
        "md5": content.md5,
        "digest": content.md5,
    }


@file_type.field("url")
def resolve_url(file: Raw, info: Info, upload: bool | None = None) -> str | None:  # noqa: FBT001
    """Where to fetch it, or where to send a new content."""
    if upload:
        return info.context.services.blobs.upload_url(info.context.base_url, file["key"])
    url: str | None = file.get("url") or file.get("directUrl")
    return url


@run_type.field("fileCount")
def resolve_file_count(run: Raw, info: Info) -> int:
    """How many files the run has."""
    return len(_files(run, info.context))


@run_type.field("files")
def resolve_files(
    run: Raw,
    info: Info,
    *,
    names: list[str] | None = None,
    first: int | None = None,
    after: str | None = None,
    pattern: str | None = None,
) -> Raw:
    """A page of the files with one of these names, or whose name is LIKE the pattern."""
    prefix = len(f"run/{run['row']}/")
    found = [
        content for content in _files(run, info.context) if _wanted(content.key[prefix:], names, pattern)
    ]
    return pages.page(
        found,
        lambda content: content.key,
        lambda content: file_view(content, content.key[prefix:], info.context),
        first,
        after,
    )


@mutation.field("createRunFiles")
def create_run_files(_: None, info: Info, input: Raw) -> Raw:
    """Where to send the contents of these files; each is visible once all of it has come."""
    context: Context = info.context
    run = _run(context, input)
    files = [_upload(context, run, name) for name in input["files"]]
    return {"runID": ids.make("Run", run), "uploadHeaders": [], "files": files}


@mutation.field("markRunFilesUploaded")
def mark_uploaded(_: None, info: Info, input: Raw) -> Raw:
    """Nothing is left to do: a file is there once its PUT was answered."""
    _run(info.context, input)
    return {"success": True}


@mutation.field("deleteFiles")
def delete_files(_: None, info: Info, input: Raw) -> Raw:
    """Delete files of runs."""
    context: Context = info.context
    with context.services.store.write() as db:
        for file in input["files"]:
            key = ids.parse("File", file)
            kind, run, *_rest = key.split("/")
            if kind != "run":
                raise NotFound(f"{file!r} is not a file of a run.")
            runs.by_id(db, context.user, int(run))
            db.execute("DELETE FROM slots WHERE key = ?", (key,))
    return {"success": True}


def _upload(context: Context, run: int, name: str) -> Raw:
    key = slot(run, name)
    return {
        "key": key,
        "id": ids.make("File", key),
        "name": name,
        "uploadUrl": context.services.blobs.upload_url(context.base_url, key),
        "uploadHeaders": [],
    }


def _run(context: Context, asked: Raw) -> int:
    with context.services.store.read() as db:
        path = asked.get("entityName"), asked.get("projectName"), asked["runName"]
        return int(runs.by_path(db, context.user, *path)["id"])


def _files(run: Raw, context: Context) -> list[Content]:
    with context.services.store.read() as db:
        return context.services.blobs.slots(db, f"run/{run['row']}/")


def _wanted(name: str, names: list[str] | None, pattern: str | None) -> bool:
    if names:
        return name in names
    return pattern is None or _like(pattern).fullmatch(name) is not None


def _like(pattern: str) -> re.Pattern[str]:
    """MySQL's LIKE: % is any text, _ any character."""
    words: dict[str, Any] = {"%": ".*", "_": "."}
    return re.compile("".join(words.get(one, re.escape(one)) for one in pattern), re.DOTALL)


BINDABLES = [mutation, run_type, file_type]
