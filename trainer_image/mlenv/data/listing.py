"""Which files a data set has: a file, folder or glob, or a list of them, on any file system of fsspec."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import fsspec

from mlenv.data.errors import Unreadable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SUFFIXES: Final = (".parquet", ".parq", ".pq")
_MAGIC: Final = re.compile(r"[*?\[]")


class Found(NamedTuple):
    """A file of the listing."""

    path: str
    name: str
    """What it is called in the data set, wherever that lies; files are sorted by it."""
    size: int


def listed(paths: Sequence[str], storage: Mapping[str, Any]) -> tuple[Any, list[Found]]:
    """The file system and the files, sorted. Raises Unreadable if there are none, or several file systems."""
    if not paths:
        raise Unreadable("no files were given: name a file, a folder, a glob or a list of them")
    opened = [fsspec.core.url_to_fs(path, **storage) for path in paths]
    fs = opened[0][0]
    if any(other is not fs for other, _ in opened):
        raise Unreadable(f"{', '.join(paths)} lie on different file systems: one data set lies on one")
    fs.invalidate_cache()  # somebody may have listed it before files were added
    found = {file.path: file for _, path in opened for file in _below(fs, path, alone=len(paths) == 1)}
    if not found:
        raise Unreadable(f"{', '.join(paths)}: there is no file named *{', *'.join(SUFFIXES)}")
    return fs, sorted(found.values(), key=lambda file: file.name)


def _below(fs: Any, path: str, *, alone: bool) -> list[Found]:
    try:
        if _MAGIC.search(path):
            root = posixpath.dirname(_MAGIC.split(path)[0] + "x")
            return _files(fs.glob(path, detail=True), root if alone else "")
        info = fs.info(path)
        if info["type"] == "file":
            return [Found(path, posixpath.basename(path) if alone else path, int(info["size"]))]
        inside = {name: info for name, info in fs.find(path, detail=True).items() if _counts(name, path)}
        return _files(inside, path if alone else "")
    except (OSError, ValueError) as error:
        raise Unreadable(f"{path} cannot be listed: {type(error).__name__}: {error}") from error


def _files(infos: Mapping[str, Any], root: str) -> list[Found]:
    return [
        Found(path, posixpath.relpath(path, root) if root else path, int(info["size"]))
        for path, info in infos.items()
        if info["type"] == "file"
    ]


def _counts(path: str, root: str) -> bool:
    """Whether a file below a folder is data: by its suffix, and not hidden, as Spark's _SUCCESS is."""
    parts = posixpath.relpath(path, root).split("/")
    return path.endswith(SUFFIXES) and not any(part.startswith(("_", ".")) for part in parts)
