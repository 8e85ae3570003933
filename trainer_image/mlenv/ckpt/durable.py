"""Files that are whole, and on the disk, before anybody is told of them."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlenv.ckpt import names
from mlenv.ckpt.errors import NotVerified

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK: Final = 1 << 20
ALGORITHM: Final = "sha256"


def write(path: Path, data: bytes) -> None:
    """Write a new file and wait until the disk has it; not atomic: use it inside of a ``.tmp`` folder."""
    with path.open("xb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def replace(path: Path, data: bytes) -> None:
    """Write `path` whole or not at all, also over an older one."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    beside.unlink(missing_ok=True)
    write(beside, data)
    beside.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in `folder`."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_tree(folder: Path) -> None:
    """The same for `folder` and every folder in it, the innermost first."""
    for where, _, _ in os.walk(folder, topdown=False):
        sync_folder(Path(where))


def rename(old: Path, new: Path) -> None:
    """Give a folder its name for good. Raises OSError when the name is taken."""
    if new.exists():
        raise FileExistsError(17, "there is one of this name already", str(new))
    old.rename(new)
    sync_folder(new.parent)


def remove(folder: Path) -> None:
    """Delete a folder so that a crash on the way leaves only a ``.tmp`` name."""
    if folder.name.endswith(names.TMP):
        shutil.rmtree(folder, ignore_errors=True)
        return
    gone = folder.with_name(folder.name + names.GONE + names.TMP)
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    sync_folder(gone.parent)
    shutil.rmtree(gone, ignore_errors=True)


def digest(data: bytes) -> str:
    """The hash of `data`, in hex, by the algorithm that seals name."""
    return hashlib.sha256(data).hexdigest()


def hash_file(path: Path, algorithm: str = ALGORITHM) -> tuple[int, str]:
    """Size and hash of a file, read in pieces. Raises OSError, and NotVerified for what is no plain file."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise NotVerified(f"{path} is no plain file (a link or a folder was put in its place)")
    size, state = 0, hashlib.new(algorithm)
    for piece in pieces(path):
        size += len(piece)
        state.update(piece)
    return size, state.hexdigest()


def pieces(path: Path) -> Iterator[memoryview]:
    """A file's bytes, through one buffer."""
    buffer = memoryview(bytearray(CHUNK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            yield buffer[:count]
