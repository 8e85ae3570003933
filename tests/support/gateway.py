"""The only way to a server: a proxy that lets through to one name, certified by a private authority."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from pathlib import Path

HOST: Final = "wandb.mlenv.invalid"
"""A name that no resolver knows: who does not ask the proxy finds nothing."""
PIECE: Final = 1 << 16


class Gateway:
    """Serves in a thread of its own, until it is closed. `to` is the port of the server behind it."""

    def __init__(self, folder: Path) -> None:
        self.authority = folder / "authority.pem"
        self.to = 0
        self.asked: list[str] = []
        """What clients asked the proxy for, as host:port."""
        self._context = _certified(folder, self.authority)
        self._front = 0
        self.port = 0
        self._ready, self._loop = threading.Event(), asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()
        assert self._ready.wait(60)

    @property
    def url(self) -> str:
        """That of the proxy."""
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """No more."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _live(self) -> None:
        servers = self._loop.run_until_complete(self._open())
        self._ready.set()
        self._loop.run_forever()
        for one in servers:
            one.close()
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(_over(left))
        self._loop.close()

    async def _open(self) -> list[asyncio.Server]:
        front = await asyncio.start_server(self._serve, "127.0.0.1", ssl=self._context)
        proxy = await asyncio.start_server(self._proxy, "127.0.0.1")
        self._front = front.sockets[0].getsockname()[1]
        self.port = proxy.sockets[0].getsockname()[1]
        return [front, proxy]

    async def _proxy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, *_ = head.decode().split(" ")
        self.asked.append(target)
        if (method, target) != ("CONNECT", f"{HOST}:443"):
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            writer.close()
            return
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await _join(reader, writer, self._front)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _join(reader, writer, self.to)


async def _over(tasks: set[asyncio.Task[None]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


async def _join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    there, back = await asyncio.open_connection("127.0.0.1", port)
    await asyncio.gather(_copy(reader, back), _copy(there, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await reader.read(PIECE):
            writer.write(piece)
            await writer.drain()
    writer.close()


def _certified(folder: Path, authority: Path) -> ssl.SSLContext:
    root, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a private authority")])
    own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    ca = _dated(name, name, root).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    leaf = (
        _dated(own, name, key)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )
    authority.write_bytes(ca.sign(root, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    chain = folder / "server.pem"
    chain.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + leaf.sign(root, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return context


def _dated(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
    )
