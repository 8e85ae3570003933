"""Signed URLs: the client sends and fetches contents without authentication, so the URL is the permission."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from mlenv_local.wandb_server.errors import Forbidden

if TYPE_CHECKING:
    from pathlib import Path

PREFIX = "/storage"


class Signer:
    """Makes and checks URLs for one method and one thing each, until they expire."""

    def __init__(self, key: bytes, lifetime: float) -> None:
        self._key = key
        self._lifetime = lifetime

    def url(self, base: str, method: str, claims: dict[str, Any], filename: str = "content") -> str:
        """An absolute URL; the file name at its end is for people."""
        token = self.token(method, claims, self._lifetime)
        return f"{base}{PREFIX}/{token}/{quote(filename.rpartition('/')[2] or 'content')}"

    def token(self, method: str, claims: dict[str, Any], lifetime: float) -> str:
        """What `check` takes, for so many seconds."""
        claims = {**claims, "m": method, "e": int(time.time() + lifetime)}
        payload = _encode(json.dumps(claims, separators=(",", ":")).encode())
        return f"{payload}.{self._signature(payload)}"

    def check(self, method: str, token: str) -> dict[str, Any]:
        """What the URL permits; Forbidden if it is not ours, for another method, or too old."""
        payload, _, signature = token.partition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(payload).encode()):
            raise Forbidden("The URL is not signed by this server: ask for a new one.")
        claims: dict[str, Any] = json.loads(_decode(payload))
        if claims["m"] != method:
            raise Forbidden(f"The URL is for {claims['m']}, not for {method}.")
        if claims["e"] < time.time():
            raise Forbidden("The URL has expired: ask for a new one.")
        return claims

    def _signature(self, payload: str) -> str:
        return _encode(hmac.new(self._key, payload.encode(), hashlib.sha256).digest())


def secret(path: Path) -> str:
    """The secret in that file, made on first use, readable by its owner only."""
    if not path.exists():
        draft = path.with_name(f"{path.name}.draft")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    return path.read_text().strip()


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
