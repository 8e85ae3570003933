"""Building a Dockerfile into an OCI archive that every node can load."""

from __future__ import annotations

import fcntl
from typing import TYPE_CHECKING

from mlenv_local.binaries import cache_folder
from mlenv_local.images.builder import BASE_IMAGE, Builder
from mlenv_local.images.context import content_hash
from mlenv_local.needs import require_needs
from mlenv_local.progress import Reporter, Silent

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def build(
    dockerfile: Path,
    context: Path,
    tag: str,
    build_args: Mapping[str, str] | None = None,
    *,
    reporter: Reporter | None = None,
    consent: bool = False,
) -> Path:
    """Build a Dockerfile for real and return the OCI archive; the same inputs are built once.

    The base comes from Debian's packages and is given as the build argument PYTHON_IMAGE, as no registry is
    needed. Certificates and package indexes of this machine are seen by RUN steps, never by the image.

    Args:
        dockerfile: The Dockerfile.
        context: The folder its COPY steps see, as its .dockerignore says.
        tag: The full name of the image, for example `mlenv.io/operator:dev`; never `latest`.
        build_args: More build arguments.
        reporter: Told what is done.
        consent: Whether missing Debian packages may be installed.
    """
    args = dict(build_args or {})
    key = content_hash(dockerfile, context, args, BASE_IMAGE + tag)
    archive = cache_folder() / "images" / f"{tag.rsplit('/', maxsplit=1)[-1].replace(':', '-')}-{key}.oci.tar"
    if archive.exists():
        return archive
    told = reporter or Silent()
    require_needs(told, consent=consent, images=True)
    archive.parent.mkdir(parents=True, exist_ok=True)
    with (archive.parent / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists():
            builder = Builder(cache_folder() / "buildah")
            with told.step("Base image from Debian's packages"):
                base = builder.ensure_base()
            with told.step(f"Image {tag} from {dockerfile.name}"):
                flags = _flags(dockerfile, tag, {"PYTHON_IMAGE": base, **args})
                log = archive.with_suffix(".log")
                builder.buildah("bud", *flags, *builder.network_volumes(), str(context), log=log)
            _archive(builder, tag, archive, told)
    return archive


def _flags(dockerfile: Path, tag: str, args: Mapping[str, str]) -> list[str]:
    arguments = [f"--build-arg={key}={value}" for key, value in args.items()]
    return ["--layers", "--pull-never", f"--tag={tag}", f"--file={dockerfile}", *arguments]


def _archive(builder: Builder, tag: str, archive: Path, reporter: Reporter) -> None:
    draft = archive.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    with reporter.step(f"Archive of {tag}"):
        builder.buildah("push", "--quiet", tag, f"oci-archive:{draft}:{tag}")
    draft.rename(archive)
