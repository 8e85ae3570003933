"""Manifests, version 1: what is in an artifact, as the client writes it and as it reads it back. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlenv_local.wandb_server.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

HEADER = b"wandb-artifact-manifest-v1\n"
POLICY = "wandb-storage-policy-v1"
LAYOUT = {"storageLayout": "V2"}
# What only the client that logs needs.
_LOCAL = {"local_path", "skip_cache"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One path of an artifact; a reference has `ref`, a file does not."""

    path: str
    digest: str
    size: int
    ref: str = ""
    birth: str = ""

    @property
    def is_file(self) -> bool:
        """Whether its content is stored here."""
        return not self.ref


@dataclass(frozen=True, slots=True)
class Manifest:
    """The contents by path, each as it came, so that what this server does not know survives a merge."""

    contents: Mapping[str, Mapping[str, Any]]

    def entries(self) -> list[Entry]:
        """Sorted by path."""
        return [_entry(path, self.contents[path]) for path in sorted(self.contents)]

    def digest(self) -> str:
        """The artifact's digest, as the client computes it: MD5 over paths and digests, in hex."""
        digest = hashlib.md5(HEADER, usedforsecurity=False)
        for path in sorted(self.contents):
            digest.update(f"{path}:{self.contents[path]['digest']}\n".encode())
        return digest.hexdigest()

    def merged(self, others: Iterable[Manifest]) -> Manifest:
        """With what the others add or replace, the last winning."""
        contents = dict(self.contents)
        for other in others:
            contents.update(other.contents)
        return Manifest(contents)

    def encode(self) -> bytes:
        """As the client reads it."""
        contents = {
            path: {key: value for key, value in entry.items() if key not in _LOCAL}
            for path, entry in sorted(self.contents.items())
        }
        whole = {"version": 1, "storagePolicy": POLICY, "storagePolicyConfig": LAYOUT, "contents": contents}
        return json.dumps(whole).encode()


EMPTY = Manifest({})


def parse(raw: bytes) -> Manifest:
    """A manifest from its file; Refused says what is wrong with it."""
    try:
        whole = json.loads(raw)
        version, contents = whole["version"], whole["contents"]
    except (ValueError, TypeError, KeyError) as error:
        raise Refused("The manifest is no JSON object with `version` and `contents`.") from error
    if version != 1 or not isinstance(contents, dict):
        raise Refused(f"The manifest has version {version!r}: this server reads version 1.")
    for path, entry in contents.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("digest"), str):
            raise Refused(f"The manifest's entry {path!r} has no digest.")
    return Manifest(contents)


def hex_of(digest: str) -> str:
    """A base64 MD5 in hex; Refused if it is none."""
    try:
        raw = base64.b64decode(digest, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 16:
        raise Refused(f"{digest!r} is no base64 MD5.")
    return raw.hex()


def _entry(path: str, raw: Mapping[str, Any]) -> Entry:
    return Entry(
        path, raw["digest"], int(raw.get("size") or 0), raw.get("ref") or "", raw.get("birthArtifactID") or ""
    )
