"""What can be chosen when the server starts; everything else is in its data folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT_PORT = 8765


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the server lives and how it speaks; times are in seconds."""

    data: Path
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    public_url: str = ""
    """Base of all URLs that are handed out; empty: what the request says that it was sent to."""
    url_lifetime: float = 6 * 3600.0
    """How long a signed URL may be used."""
    crashed_after: float = 300.0
    """A run that says it is running and has not been heard of for so long is called crashed."""
    collect_every: float = 600.0
    """Pause between collections of contents that nothing refers to; 0: never by itself."""
    organization: str = "local"

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.data / "server.sqlite"

    @property
    def blobs(self) -> Path:
        """Contents, by digest."""
        return self.data / "blobs"

    @property
    def staging(self) -> Path:
        """Uploads that are not complete."""
        return self.data / "staging"

    @property
    def secret(self) -> Path:
        """The key that signs URLs."""
        return self.data / "url.key"

    @property
    def admin_token(self) -> Path:
        """The token of the administrator's endpoint."""
        return self.data / "admin.token"
