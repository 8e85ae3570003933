"""Times as they are stored (milliseconds since 1970) and as the client reads them."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def now_ms() -> int:
    """The time now."""
    return time.time_ns() // 1_000_000


def iso(milliseconds: int) -> str:
    """As the real service writes it: UTC, whole seconds."""
    return datetime.fromtimestamp(milliseconds // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_iso(text: str) -> int | None:
    """The inverse of `iso`, for anything ISO 8601; without a zone it is UTC. None if it is no time."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)
