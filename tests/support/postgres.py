"""A real PostgreSQL in a temporary folder, on a socket of its own, as a user that is not root."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from mlenv_local import needs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

QUICK = (
    "-c listen_addresses='' -c fsync=off -c full_page_writes=off -c shared_buffers=64MB -c max_connections=40"
)
"""Whether the disk keeps it is PostgreSQL's business, not what is tested."""


def programs() -> Path:
    """Folder of the server's programs; fails with a sentence when there are none."""
    if (found := needs.postgresql()) is None:
        raise RuntimeError(
            f"PostgreSQL is not installed: install the Debian package {needs.POSTGRESQL_PACKAGE}."
        )
    return found


@dataclass
class Server:
    """A running server."""

    folder: Path
    numbers: Iterator[int] = field(default_factory=count)

    def database(self) -> str:
        """The DSN of a new, empty database."""
        name = f"ledger{next(self.numbers)}"
        self.run("createdb", "--host", str(self.folder), "--username", "ledger", name)
        return f"postgresql://ledger@/{name}?host={self.folder}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"{QUICK} -k {self.folder}"
        data, log = str(self.folder / "data"), str(self.folder / "log")
        self.run("pg_ctl", "-D", data, "-l", log, "-w", "-t", "120", "-o", options, "start")

    def stop(self) -> None:
        """End it at once, as a power cut would for its clients."""
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "-w", "stop")

    def run(self, program: str, *arguments: str) -> None:
        """One of its programs, as the user that owns the folder."""
        argv: Sequence[str] = [str(programs() / program), *arguments]
        user = pwd.getpwuid(self.folder.stat().st_uid).pw_name if os.geteuid() == 0 else None
        done = subprocess.run(
            argv, user=user, cwd=self.folder, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        assert done.returncode == 0, done.stderr.decode()


@contextmanager
def server() -> Iterator[Server]:
    """A server, started now and taken away at the end."""
    folder = Path(tempfile.mkdtemp(prefix="mlenv-pg-"))
    try:
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(folder, user.pw_uid, user.pw_gid)
        one = Server(folder)
        one.run(
            "initdb", "-D", str(folder / "data"), "-U", "ledger", "--auth=trust", "-E", "UTF8", "--no-sync"
        )
        one.start()
        try:
            yield one
        finally:
            one.stop()
    finally:
        shutil.rmtree(folder)
