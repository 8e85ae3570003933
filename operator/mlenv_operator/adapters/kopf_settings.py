"""How kopf is set: everything off that we do ourselves. The reasons stand beside the values."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import kopf

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kubernetes.aio.client.configuration import Configuration

LOGIN_LIFETIME: Final = timedelta(minutes=10)


class NoDiffBase(kopf.DiffBaseStorage):
    """Stores no last-seen state: no annotation on users' objects, and no deep copy of each event's body."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        """Nothing."""
        return kopf.BodyEssence({})

    def fetch(self, **_: Any) -> None:
        """Nothing."""

    def store(self, **_: Any) -> None:
        """Nothing."""


@dataclass(frozen=True)
class EndlessBackoffs:
    """Pauses between attempts, without end (kopf gives up, and dies, after a finite list) and with jitter."""

    cap_s: float = 30.0

    def __iter__(self) -> Iterator[float]:
        pause = 1.0
        while True:
            yield random.uniform(0.5, 1.0) * pause  # noqa: S311  (jitter)
            pause = min(self.cap_s, pause * 2)


def kopf_settings() -> kopf.OperatorSettings:
    """Settings for an operator that only watches."""
    s = kopf.OperatorSettings()
    s.process.ultimate_exiting_timeout = None  # whether this process dies is not kopf's to decide
    s.posting.enabled = False  # Events are ours: aggregated, limited, after the status write
    s.persistence.diffbase_storage = NoDiffBase()  # 2.3 times the throughput
    s.persistence.finalizer = "mlenv.io/never-used"  # kopf's own name is shared by all its operators
    s.queueing.worker_limit = None  # a limit caps new objects per second, and can deadlock the start
    s.queueing.idle_timeout = 0.05  # an idle worker holds 36 KB for so long
    s.watching.chunk_size = 100  # each is parsed at one go, and there is a worker for each of its objects
    s.watching.server_timeout = 290  # streams are renewed; an int: it is sent as it is printed
    s.watching.client_timeout = 300
    s.watching.inactivity_timeout = 70  # bookmarks come every minute: a stream silent for longer is dead
    s.watching.reconnect_backoff = 1.0  # the default 0.1 hammers a sick API server
    s.networking.request_timeout = 30
    s.networking.connect_timeout = 10
    s.networking.error_backoffs = EndlessBackoffs()
    s.scanning.disabled = True  # no watch on all CRDs and namespaces, and no right to it needed
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)  # else a line per event
    return s


async def connection_info(configuration: Configuration) -> kopf.ConnectionInfo:
    """Our own client's credentials, asked for again every ten minutes: service accounts' tokens rotate."""
    credentials = await configuration.get_api_key_with_prefix("BearerToken", alias="authorization") or ""
    scheme, _, token = credentials.partition(" ")
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        scheme=scheme.capitalize() or None,
        token=token.strip() or None,
        proxy_url=configuration.proxy,
        expiration=datetime.now(UTC) + LOGIN_LIFETIME,
    )
