"""Contents on disk by digest, and slots: the names under which they are uploaded and found.

An upload is staged in a file of its own, synced, renamed to its digest and bound to its slot in one
transaction: whatever interrupts it, either the slot holds all of it or nothing is visible. Foreign keys are
the reference count: a content that nothing refers to is one whose row can be deleted, and `collect` tries
exactly that.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlenv_local.wandb_server.clock import now_ms
from mlenv_local.wandb_server.errors import Refused
from mlenv_local.wandb_server.store import Store, sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from mlenv_local.wandb_server.settings import Settings
    from mlenv_local.wandb_server.signing import Signer

DRAFT = "draft-"
CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Content:
    """What is known of a content; md5 is base64, as Content-MD5 and manifests write it."""

    sha256: str
    md5: str
    size: int
    updated_ms: int = 0
    key: str = ""

    @property
    def md5_hex(self) -> str:
        """As ETags have it."""
        return base64.b64decode(self.md5).hex()


class Staged:
    """An upload under way: a file that nobody sees, hashed as it grows."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"{DRAFT}{secrets.token_hex(12)}"
        self._file = self.path.open("xb")
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False)
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append."""
        self._file.write(data)
        self._sha256.update(data)
        self._md5.update(data)
        self.size += len(data)

    def finish(self, md5: str = "") -> Content:
        """Sync to disk; Refused if the content is not the one that was announced (base64 MD5)."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        content = Content(self._sha256.hexdigest(), base64.b64encode(self._md5.digest()).decode(), self.size)
        if md5 and md5 != content.md5:
            self.discard()
            raise Refused(
                f"The content has MD5 {content.md5}, and {md5} was announced: it was damaged on its way."
            )
        return content

    def discard(self) -> None:
        """Leave nothing; does no harm after `finish` and adoption."""
        self._file.close()
        self.path.unlink(missing_ok=True)


class Blobs:
    """The contents of one server."""

    def __init__(self, settings: Settings, store: Store, signer: Signer) -> None:
        self._blobs = settings.blobs
        self._staging = settings.staging
        self._store = store
        self._signer = signer
        for folder in (self._blobs, self._staging):
            folder.mkdir(parents=True, exist_ok=True)
        for draft in self._staging.glob(f"{DRAFT}*"):
            draft.unlink()  # of a server that died: one server per folder, so nobody writes it any more

    def upload_url(self, base: str, key: str, md5: str = "") -> str:
        """Where the client PUTs the content of a slot; with a base64 MD5, only that content is taken."""
        return self._signer.url(base, "PUT", {"k": key, **({"md5": md5} if md5 else {})}, key)

    def download_url(self, base: str, sha256: str, filename: str) -> str:
        """Where the client GETs a content, in ranges if it wants."""
        return self._signer.url(base, "GET", {"h": sha256, "n": filename.rpartition("/")[2]}, filename)

    def stage(self) -> Staged:
        """Begin an upload."""
        return Staged(self._staging)

    def put(self, key: str, staged: Staged, md5: str = "") -> Content:
        """Complete an upload: check, adopt and bind it, in one transaction."""
        content = staged.finish(md5)
        with self._store.write() as db:
            self.adopt(db, staged, content)
            self.bind(db, key, content.sha256)
        return content

    def add(self, db: sqlite3.Connection, key: str, data: bytes) -> Content:
        """Store what the server itself has made, as part of a transaction."""
        staged = self.stage()
        staged.write(data)
        content = staged.finish()
        self.adopt(db, staged, content)
        self.bind(db, key, content.sha256)
        return content

    def adopt(self, db: sqlite3.Connection, staged: Staged, content: Content) -> None:
        """Make a finished upload a content; somebody must refer to it before the transaction ends."""
        target = self.path(content.sha256)
        target.parent.mkdir(exist_ok=True)
        staged.path.replace(target)
        sync_folder(target.parent)
        db.execute(
            "INSERT INTO blobs VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (content.sha256, content.md5, content.size, now_ms()),
        )

    def bind(self, db: sqlite3.Connection, key: str, sha256: str) -> None:
        """Let a slot hold that content, and no longer the one before."""
        db.execute(
            "INSERT INTO slots VALUES (?1, ?2, ?3)"
            " ON CONFLICT (key) DO UPDATE SET sha256 = ?2, updated_ms = ?3",
            (key, sha256, now_ms()),
        )

    def slot(self, db: sqlite3.Connection, key: str) -> Content | None:
        """What that slot holds, if anything."""
        row = db.execute(f"{_SLOTS} WHERE key = ?", (key,)).fetchone()
        return _content(row) if row else None

    def slots(self, db: sqlite3.Connection, prefix: str) -> list[Content]:
        """What the slots hold whose key begins so, by key."""
        rows = db.execute(f"{_SLOTS} WHERE key >= ? AND key < ? ORDER BY key", (prefix, _after(prefix)))
        return [_content(row) for row in rows]

    def drop(self, db: sqlite3.Connection, prefix: str) -> None:
        """Empty all slots whose key begins so; what nothing else refers to is collected later."""
        db.execute("DELETE FROM slots WHERE key >= ? AND key < ?", (prefix, _after(prefix)))

    def path(self, sha256: str) -> Path:
        """Where a content lies."""
        return self._blobs / sha256[:2] / sha256

    def read(self, content: Content) -> bytes:
        """All of it: for manifests and the like, not for models."""
        return self.path(content.sha256).read_bytes()

    def collect(self) -> int:
        """Delete contents that nothing refers to, and files that no row knows; how many.

        Candidates are looked for without keeping writers waiting, and looked at again before they go.
        """
        with self._store.read() as db:
            unused = [row["sha256"] for row in db.execute(_unused(db))]
            known = {row["sha256"] for row in db.execute("SELECT sha256 FROM blobs")}
        files = {path.name: path for path in self._files() if path.name not in known}
        with self._store.write() as db:
            gone = {sha256: self.path(sha256) for sha256 in unused if _forget(db, sha256)}
            gone |= {name: path for name, path in files.items() if not _is_known(db, name)}
            # After the commit and still alone: a file may lack its row for a moment, a row never its file.
            self._store.after_commit(lambda: _unlink(gone.values()))
        return len(gone)

    def _files(self) -> Iterator[Path]:
        return (path for folder in self._blobs.iterdir() for path in folder.iterdir())


_SLOTS = "SELECT key, sha256, md5, size, updated_ms FROM slots JOIN blobs USING (sha256)"


def _content(row: sqlite3.Row) -> Content:
    return Content(row["sha256"], row["md5"], row["size"], row["updated_ms"], row["key"])


def _after(prefix: str) -> str:
    """The first key behind all that begin so."""
    return f"{prefix}\U0010ffff"


def _unused(db: sqlite3.Connection) -> str:
    """Selects contents that no row has a foreign key to, of whatever tables there are."""
    keys = (
        'SELECT t.name, k."from" FROM sqlite_master AS t JOIN pragma_foreign_key_list(t.name) AS k'
        " WHERE t.type = 'table' AND k.\"table\" = 'blobs'"
    )
    unreferenced = [
        f"NOT EXISTS (SELECT 1 FROM {table} WHERE {table}.{column} = blobs.sha256)"  # noqa: S608
        for table, column in db.execute(keys).fetchall()
    ]
    return f"SELECT sha256 FROM blobs WHERE {' AND '.join(unreferenced)}"  # noqa: S608


def _is_known(db: sqlite3.Connection, sha256: str) -> bool:
    return db.execute("SELECT 1 FROM blobs WHERE sha256 = ?", (sha256,)).fetchone() is not None


def _forget(db: sqlite3.Connection, sha256: str) -> bool:
    try:
        db.execute("DELETE FROM blobs WHERE sha256 = ?", (sha256,))
    except sqlite3.IntegrityError:
        return False
    return True


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
