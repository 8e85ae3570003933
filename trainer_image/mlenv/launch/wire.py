"""One POST over a kept HTTP connection: the standard library's client is all a heartbeat needs."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from mlenv_api.protocol import BEAT_PATH

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT: Final = 5.0
MAX_ANSWER: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server said."""

    status: int
    body: bytes
    retry_after: float


class Wire:
    """Sends beats to one server at a time, reusing its connection."""

    def __init__(self, token_file: Path) -> None:
        self._token_file = token_file
        self._url = ""
        self._connection: http.client.HTTPConnection | None = None

    def post(self, url: str, body: bytes) -> Reply:
        """Send one beat to the base `url`. Raises OSError, HTTPException or ValueError (bad URL)."""
        kept = self._connection is not None and self._url == url
        try:
            return self._post(url, body)
        except (http.client.HTTPException, ConnectionError):
            self.close()
            if not kept:
                raise
            return self._post(url, body)  # the server closed the kept connection between two beats
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Drop the connection."""
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.close()
        self._connection = None

    def _post(self, url: str, body: bytes) -> Reply:
        connection = self._connected(url)
        connection.request("POST", urlsplit(url).path.rstrip("/") + BEAT_PATH, body, self._headers())
        response = connection.getresponse()
        data = response.read(MAX_ANSWER)
        if response.will_close or not response.isclosed():
            self.close()
        return Reply(response.status, data, _seconds(response.headers.get("Retry-After")))

    def _connected(self, url: str) -> http.client.HTTPConnection:
        if self._connection is None or self._url != url:
            self.close()
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"{url!r} is no http URL")
            kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
            self._connection, self._url = kind(_host(parts.hostname), parts.port, timeout=TIMEOUT), url
        return self._connection

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        with contextlib.suppress(OSError):
            # Read every time: the kubelet replaces it, and a file of 1 KB costs less than to watch it.
            headers["Authorization"] = f"Bearer {self._token_file.read_text().strip()}"
        return headers


def _host(name: str) -> str:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(name).compressed
    return name


def _seconds(text: str | None) -> float:
    return float(text) if text and text.isascii() and text.isdigit() else 0.0
