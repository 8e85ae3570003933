"""Uploads in parts: each part is a file of its own, so that an upload can go on with those that lack."""

from __future__ import annotations

import hashlib
import secrets
import shutil
import threading
from typing import TYPE_CHECKING

from mlenv_local.wandb_server.blobs import CHUNK, Content
from mlenv_local.wandb_server.clock import now_ms
from mlenv_local.wandb_server.errors import NotFound, Refused
from mlenv_local.wandb_server.store import Store, sync_folder

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
    from pathlib import Path

    from mlenv_local.wandb_server.blobs import Blobs, Staged
    from mlenv_local.wandb_server.settings import Settings
    from mlenv_local.wandb_server.signing import Signer

FORGOTTEN_AFTER_MS = 7 * 24 * 3600 * 1000


class Multipart:
    """Uploads in parts that are under way."""

    def __init__(self, settings: Settings, store: Store, blobs: Blobs, signer: Signer) -> None:
        self._staging = settings.staging
        self._store = store
        self._blobs = blobs
        self._signer = signer
        self._guard = threading.Lock()
        self._joining: dict[str, threading.Lock] = {}
        """Of each upload: a client that waits for the joining of gigabytes in vain asks again meanwhile."""

    def begin(self, db: sqlite3.Connection, key: str) -> str:
        """Announce an upload of that slot; returns its id."""
        upload = secrets.token_hex(16)
        db.execute("INSERT INTO multipart_uploads VALUES (?, ?, ?)", (upload, key, now_ms()))
        return upload

    def part_url(self, base: str, upload: str, number: int, md5: str = "") -> str:
        """Where the client PUTs a part (numbers begin with 1); the answer's ETag is its MD5 in hex."""
        claims = {"u": upload, "p": number, **({"md5": md5} if md5 else {})}
        return self._signer.url(base, "PUT", claims, f"part-{number}")

    def put_part(self, upload: str, number: int, staged: Staged, md5: str = "") -> str:
        """Keep a part, instead of an earlier one of that number; returns its ETag."""
        content = staged.finish(md5)
        with self._store.read() as db:
            self._key(db, upload)
        folder = self._folder(upload)
        folder.mkdir(exist_ok=True)
        staged.path.replace(folder / str(number))
        sync_folder(folder)
        return content.md5_hex

    def complete(self, upload: str, parts: Sequence[tuple[int, str]]) -> Content:
        """Join parts (number, MD5 in hex) in the order of their numbers and bind the slot.

        Completing what is complete already changes nothing, so that a lost answer can be asked for again.
        """
        with self._guard:
            joining = self._joining.setdefault(upload, threading.Lock())
        with joining:
            return self._complete(upload, parts)

    def _complete(self, upload: str, parts: Sequence[tuple[int, str]]) -> Content:
        with self._store.read() as db:
            key = self._key(db, upload)
        if not self._folder(upload).exists() and (done := self._done(key)):
            return done
        staged = self._join(upload, sorted(parts))
        content = staged.finish()  # syncs gigabytes: before anybody has to wait for this writer
        with self._store.write() as db:
            self._blobs.adopt(db, staged, content)
            self._blobs.bind(db, key, content.sha256)
            self._store.after_commit(lambda: shutil.rmtree(self._folder(upload), ignore_errors=True))
        return content

    def abort(self, upload: str) -> None:
        """Forget an upload and its parts."""
        with self._store.write() as db:
            db.execute("DELETE FROM multipart_uploads WHERE id = ?", (upload,))
            self._store.after_commit(lambda: shutil.rmtree(self._folder(upload), ignore_errors=True))

    def forget_old(self) -> None:
        """Abort what nobody has gone on with for a week."""
        with self._store.read() as db:
            old = "SELECT id FROM multipart_uploads WHERE created_ms < ?"
            uploads = [row["id"] for row in db.execute(old, (now_ms() - FORGOTTEN_AFTER_MS,))]
        for upload in uploads:
            self.abort(upload)

    def _done(self, key: str) -> Content | None:
        with self._store.read() as db:
            return self._blobs.slot(db, key)

    def _key(self, db: sqlite3.Connection, upload: str) -> str:
        row = db.execute("SELECT key FROM multipart_uploads WHERE id = ?", (upload,)).fetchone()
        if row is None:
            raise NotFound(f"There is no upload {upload}: it was aborted, or forgotten after a week.")
        return str(row["key"])

    def _folder(self, upload: str) -> Path:
        return self._staging / f"parts-{upload}"

    def _join(self, upload: str, parts: Sequence[tuple[int, str]]) -> Staged:
        if [number for number, _ in parts] != list(range(1, len(parts) + 1)):
            raise Refused(f"The parts of upload {upload} are not numbered 1 to {len(parts)}.")
        staged = self._blobs.stage()
        try:
            for number, md5 in parts:
                _append(staged, self._folder(upload) / str(number), md5)
        except BaseException:
            staged.discard()
            raise
        return staged


def _append(staged: Staged, part: Path, md5: str) -> None:
    if not part.exists():
        raise Refused(f"Part {part.name} was never received: send it, then complete again.")
    digest = hashlib.md5(usedforsecurity=False)
    with part.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            staged.write(chunk)
    if md5 and digest.hexdigest() != md5:
        raise Refused(f"Part {part.name} has MD5 {digest.hexdigest()}, not {md5}: send it again.")
