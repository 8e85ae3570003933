"""Which processes a cluster started: written before each start, so a crash leaves no orphan unknown.

A process is known by pid, start time and boot, so a number that the kernel gave to somebody else is never
signalled. A start that was announced but not completed is found by the marker in its environment.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

MARKER = "MLENV_LOCAL_CLUSTER_ROOT"
NAME_MARKER = "MLENV_LOCAL_NAME"


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process that cannot be mistaken for another: start is in clock ticks since that boot."""

    pid: int
    start: int
    boot: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One started process; `process` is None between the announcement and the start."""

    name: str
    argv: tuple[str, ...]
    process: ProcessId | None = None


class Stat(NamedTuple):
    """What /proc/PID/stat says."""

    state: str
    parent: int
    threads: int
    start: int

    @property
    def over(self) -> bool:
        """Whether nothing of it runs.

        The first thread of a killed process may end before others, which keep its files and ports until then.
        """
        return self.state in "ZX" and self.threads <= 1


def parse_stat(stat: str) -> Stat:
    """Read /proc/PID/stat (the name in it may hold spaces and ')')."""
    fields = stat[stat.rindex(")") + 2 :].split()
    return Stat(fields[0], int(fields[1]), int(fields[17]), int(fields[19]))


def to_json(entry: Entry) -> str:
    """One entry as stored."""
    return json.dumps(asdict(entry))


def from_json(text: str) -> Entry:
    """The inverse of `to_json`."""
    raw = json.loads(text)
    process = ProcessId(**raw["process"]) if raw["process"] else None
    return Entry(name=raw["name"], argv=tuple(raw["argv"]), process=process)


class Journal:
    """The entries of one cluster, one file each, replaced atomically."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, entry: Entry) -> None:
        """Store an entry, replacing an earlier one of that name."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(entry.name)
        draft = path.with_suffix(".draft")
        draft.write_text(to_json(entry))
        draft.replace(path)

    def read(self, name: str) -> Entry | None:
        """Return the entry of that name, if there is one."""
        path = self._path(name)
        return from_json(path.read_text()) if path.exists() else None

    def entries(self) -> list[Entry]:
        """All entries, by name."""
        return [from_json(path.read_text()) for path in sorted(self.folder.glob("*.json"))]

    def forget(self, name: str) -> None:
        """Remove an entry after its process has ended."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name.replace('/', '__')}.json"


def boot_id() -> str:
    """The kernel's name for the time since the last boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def identify(pid: int) -> ProcessId | None:
    """Return the identity of a live process; None if there is none, or only a zombie."""
    try:
        stat = parse_stat(Path(f"/proc/{pid}/stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if stat.over else ProcessId(pid=pid, start=stat.start, boot=boot_id())


def is_alive(process: ProcessId | None) -> bool:
    """Whether exactly this process still runs."""
    return process is not None and identify(process.pid) == process


def all_pids() -> Iterator[int]:
    """Every process of this pid namespace."""
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def children(parent: int) -> list[int]:
    """The direct children of a process that are alive."""
    found = []
    for pid in all_pids():
        try:
            stat = parse_stat(Path(f"/proc/{pid}/stat").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue
        if stat.parent == parent and not stat.over:
            found.append(pid)
    return found


def marked(root: Path, name: str | None = None) -> list[int]:
    """Processes whose environment has the marker of the cluster at `root`, and of that entry if one is named.

    What a process starts inherits its environment: shims carry the name of their containerd.
    """
    wanted = {f"{MARKER}={root}".encode(), *([f"{NAME_MARKER}={name}".encode()] if name else [])}
    return [pid for pid in all_pids() if wanted <= set(_read(pid, "environ").split(b"\0"))]


def namespace(pid: int, kind: str) -> str:
    """Name a namespace of a process; empty if the process is gone or on its way."""
    try:
        return str(Path(f"/proc/{pid}/ns/{kind}").readlink())
    except OSError:
        return ""


def program(pid: int) -> str:
    """The first word of a process's command line; empty if it is gone."""
    return _read(pid, "cmdline").split(b"\0")[0].decode(errors="replace")


def _read(pid: int, file: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{file}").read_bytes()
    except OSError:
        return b""
