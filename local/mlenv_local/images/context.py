"""Which files of a folder an image is built from, and a name for their content."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Ignore:
    """A .dockerignore: of the patterns that match a path or a folder above it, the last one decides."""

    def __init__(self, text: str) -> None:
        lines = [line.strip() for line in text.splitlines()]
        rules = [line for line in lines if line and not line.startswith("#")]
        self._rules = [(not r.startswith("!"), _pattern(r.lstrip("!").strip("/"))) for r in rules]

    def excludes(self, path: Path) -> bool:
        """Whether the relative path stays out of the build."""
        excluded = False
        for excluding, pattern in self._rules:
            if any(pattern.fullmatch(str(part)) for part in (path, *path.parents)):
                excluded = excluding
        return excluded


def _pattern(glob: str) -> re.Pattern[str]:
    parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    tokens = re.split(r"(\*\*/|\*\*|\*|\?)", glob)
    return re.compile("".join(parts.get(token, re.escape(token)) for token in tokens))


def files(context: Path) -> Iterator[Path]:
    """Every file of the context that the build may see, relative and sorted; hidden folders are left out."""
    rules = context / ".dockerignore"
    ignore = Ignore(rules.read_text() if rules.exists() else "")
    found = []
    for folder, folders, names in os.walk(context):
        folders[:] = [f for f in folders if not f.startswith(".") and f != "__pycache__"]
        found += [(Path(folder) / name).relative_to(context) for name in names]
    return iter(sorted(path for path in found if not ignore.excludes(path)))


def content_hash(dockerfile: Path, context: Path, build_args: Mapping[str, str], base: str) -> str:
    """Sixteen characters that change when anything that the image is made of does."""
    digest = hashlib.sha256(dockerfile.read_bytes())
    digest.update(repr((base, sorted(build_args.items()))).encode())
    for path in files(context):
        content = hashlib.sha256((context / path).read_bytes()).hexdigest()
        digest.update(f"{path}\0{(context / path).stat().st_mode:o}\0{content}\n".encode())
    return digest.hexdigest()[:16]
