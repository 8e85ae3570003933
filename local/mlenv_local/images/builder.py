"""buildah with a storage of its own, and Debian's Python as every image's base; no registry, no daemon."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from mlenv_local.errors import LocalError
from mlenv_local.processes import tail
from mlenv_local.shell import run

SUITE = "bookworm"
PACKAGES = ("python3", "python3-venv", "ca-certificates")
BASE_IMAGE = f"localhost/mlenv-python:{SUITE}-1"
BUILD_SECONDS = 3600
_BUNDLES = (Path("/etc/ssl/certs/ca-certificates.crt"), Path("/etc/pki/tls/certs/ca-bundle.crt"))


class Builder:
    """buildah below one folder of the cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def buildah(self, *args: str, log: Path | None = None) -> str:
        """Run buildah; with a log, its output goes there and an error shows the last lines."""
        storage = [f"--root={self.folder / 'storage'}", f"--runroot={self.folder / 'run'}"]
        argv = ["buildah", *storage, "--storage-driver=overlay", *args]
        environment = {**_without_python(os.environ), "BUILDAH_ISOLATION": "chroot"}
        if log is None:
            return run(argv, env=environment, timeout=BUILD_SECONDS)
        with log.open("w") as out:
            done = subprocess.run(argv, env=environment, stdout=out, stderr=subprocess.STDOUT, check=False)
        if done.returncode != 0:
            lines = "\n  | ".join(tail(log, 25))
            raise LocalError(f"`buildah {args[0]}` failed; its log is {log} and ends with:\n  | {lines}")
        return ""

    def has_image(self, name: str) -> bool:
        """Whether the storage has an image of that name."""
        try:
            return bool(self.buildah("images", "--quiet", name).strip())
        except LocalError:
            return False

    def ensure_base(self) -> str:
        """Return the name of the base image: Debian with Python, made from Debian's own packages."""
        if not self.has_image(BASE_IMAGE):
            archive = self.folder / "base.tar"
            run([*_mmdebstrap(), SUITE, str(archive)], timeout=BUILD_SECONDS)
            container = self.buildah("from", "scratch").strip()
            self.buildah("add", "--quiet", container, str(archive), "/")
            path = "PATH=/usr/local/bin:/usr/bin:/bin"
            self.buildah("config", "--env", path, "--cmd", "python3", container)
            self.buildah("commit", "--quiet", "--rm", container, BASE_IMAGE)
            archive.unlink()
        return BASE_IMAGE

    def network_volumes(self) -> list[str]:
        """Mounts that give RUN steps this machine's trust and package indexes; they never enter a layer."""
        mounts = [f"{bundle}:/etc/ssl/certs/ca-certificates.crt:ro" for bundle in _bundle()]
        for name, text in {"pip.conf": pip_config(os.environ), "uv.toml": uv_config(os.environ)}.items():
            path = self.folder / name
            path.write_text(text)
            path.chmod(0o600)
            mounts.append(f"{path}:{'/etc/uv/uv.toml' if name == 'uv.toml' else '/etc/pip.conf'}:ro")
        return [f"--volume={mount}" for mount in mounts]


def pip_config(environment: os._Environ[str] | dict[str, str]) -> str:
    """Pip's settings of this machine's environment, as a file."""
    keys = {"index-url": "PIP_INDEX_URL", "extra-index-url": "PIP_EXTRA_INDEX_URL", "timeout": "PIP_TIMEOUT"}
    lines = [f"{key} = {environment[name]}" for key, name in keys.items() if environment.get(name)]
    return "\n".join(["[global]", "disable-pip-version-check = true", *lines, ""])


def uv_config(environment: os._Environ[str] | dict[str, str]) -> str:
    """Uv's settings of this machine's environment, as a file."""
    index = environment.get("UV_DEFAULT_INDEX") or environment.get("UV_INDEX_URL")
    lines = [f'index-url = "{index}"'] if index else []
    return "\n".join(["system-certs = true", *lines, ""])


def _bundle() -> list[Path]:
    chosen = os.environ.get("SSL_CERT_FILE")
    return [p for p in ([Path(chosen)] if chosen else []) + list(_BUNDLES) if p.exists()][:1]


def _mmdebstrap() -> list[str]:
    options = run(
        ["apt-config", "dump", "--no-empty", '--format=%f "%v";%n', "Acquire::http", "Acquire::https"]
    )
    proxies = [line for line in options.splitlines() if "proxy" in line.lower()]
    return [
        *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}"),
        *(f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "man", "locale")),
        *(f"--aptopt={line}" for line in proxies),
    ]


def _without_python(environment: os._Environ[str]) -> dict[str, str]:
    # Tools of the host's Python environment are not the image's business.
    return {key: value for key, value in environment.items() if not key.startswith(("PIP_", "UV_"))}
