"""Writing OCI image archives, byte for byte the same for the same input."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import tarfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def architecture() -> str:
    """This machine's processor in the words of OCI."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


@dataclass(frozen=True, slots=True)
class Entry:
    """One path of an image's layer: a file with content, a symbolic link, or a folder if neither is given."""

    path: str
    content: bytes | None = None
    link: str | None = None
    mode: int = 0o755
    owner: int = 0


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """An image of one layer."""

    name: str
    entries: tuple[Entry, ...]
    entrypoint: tuple[str, ...] = ()
    user: str = "0:0"
    env: Mapping[str, str] = field(default_factory=dict)
    architecture: str = field(default_factory=architecture)


def write_archive(spec: ImageSpec, target: Path) -> None:
    """Write the image as an OCI archive that `ctr images import` takes; replaces the target atomically."""
    layer = _layer(spec.entries)
    packed = gzip.compress(layer, mtime=0)
    config = _json(_config(spec, _digest(layer)))
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _descriptor(_CONFIG, config),
            "layers": [_descriptor(_LAYER, packed)],
        }
    )
    files = {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json(_index(spec.name, manifest)),
        **{f"blobs/sha256/{_hex(blob)}": blob for blob in (config, packed, manifest)},
    }
    draft = target.with_suffix(".draft")
    draft.write_bytes(_tar([Entry(path, content, mode=0o644) for path, content in files.items()]))
    draft.replace(target)


def _layer(entries: tuple[Entry, ...]) -> bytes:
    return _tar(list(entries))


def _tar(entries: list[Entry]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in entries:
            archive.addfile(_tar_info(entry), io.BytesIO(entry.content or b""))
    return buffer.getvalue()


def _tar_info(entry: Entry) -> tarfile.TarInfo:
    info = tarfile.TarInfo(entry.path)
    info.mode, info.uid, info.gid = entry.mode, entry.owner, entry.owner
    if entry.content is not None:
        info.size = len(entry.content)
    elif entry.link is not None:
        info.type, info.linkname = tarfile.SYMTYPE, entry.link
    else:
        info.type = tarfile.DIRTYPE
    return info


def _config(spec: ImageSpec, diff_id: str) -> dict[str, Any]:
    config: dict[str, Any] = {"User": spec.user, "Env": [f"{k}={v}" for k, v in sorted(spec.env.items())]}
    if spec.entrypoint:
        config["Entrypoint"] = list(spec.entrypoint)
    return {
        "architecture": spec.architecture,
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created_by": "mlenv local"}],
    }


def _index(name: str, manifest: bytes) -> dict[str, Any]:
    # containerd reads the first annotation, every other tool the second.
    names = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
    return {"schemaVersion": 2, "manifests": [{**_descriptor(_MANIFEST, manifest), "annotations": names}]}


def _descriptor(kind: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": _digest(blob), "size": len(blob)}


def _digest(blob: bytes) -> str:
    return f"sha256:{_hex(blob)}"


def _hex(blob: bytes) -> str:
    return hashlib.sha256(blob).hexdigest()


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
