"""HTTP to the API server: connection, credentials, time limits, metrics. Knows no verb."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

import aiohttp
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject
from kubernetes.aio.config.incluster_config import load_incluster_config
from kubernetes.aio.config.kube_config import load_kube_config, refresh_token
from yarl import URL

from mlenv_operator.kube.errors import ServerTimeout, Unavailable, from_answer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

CONNECT_TIMEOUT_S: Final = 10.0


class ApiMetrics(Protocol):
    """Where requests are counted."""

    def requested(self, verb: str, resource: str, code: int, seconds: float) -> None:
        """A request ended; code 0 when there was no answer."""


class NoApiMetrics:
    """Counts nothing."""

    def requested(self, verb: str, resource: str, code: int, seconds: float) -> None:
        """Nothing."""


class Request:
    """What to ask, and in which words to speak of it."""

    __slots__ = ("about", "body", "headers", "method", "path", "query", "resource", "verb")

    def __init__(
        self,
        verb: str,
        method: str,
        resource: str,
        path: str,
        *,
        about: str = "",
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> None:
        self.verb = verb
        self.method = method
        self.resource = resource
        self.path = path
        self.about = about
        self.query = query
        self.body = body
        # No compression: within a cluster the network is cheaper than either side's CPU.
        self.headers = {"Accept": accept, "Accept-Encoding": "identity"}
        if body is not None:
            self.headers["Content-Type"] = content_type

    @property
    def asked(self) -> str:
        """The request in words, for errors."""
        return f"{self.verb} {self.resource} {self.about}".rstrip()


class _Rest(RESTClientObject):
    """Reaches the official client's session, which knows its TLS, proxy and client certificates."""

    def _create_connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(limit=self.maxsize, ssl=self.ssl_context, socket_factory=_socket)

    def session(self) -> aiohttp.ClientSession:
        return self._create_pool_manager()


def _socket(address: tuple[Any, ...]) -> socket.socket:
    """A socket that notices within half a minute that the other side is gone: a watch only listens."""
    family, kind, protocol = address[:3]
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):  # not on every system that runs the tests
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return sock


class Transport:
    """One pooled session to one API server. ``async with connect(...)`` makes one."""

    def __init__(
        self,
        configuration: Configuration,
        session: aiohttp.ClientSession,
        *,
        user_agent: str,
        timeout_s: float,
        metrics: ApiMetrics | None = None,
    ) -> None:
        self.configuration = configuration
        self._session = session
        self._user_agent = user_agent
        self._timeout_s = timeout_s
        self._timeout = _timeout(timeout_s)
        self._metrics = metrics or NoApiMetrics()
        self._server = str(configuration.host).rstrip("/")

    async def call(self, request: Request, *, timeout_s: float | None = None) -> bytes:
        """The body of the answer. Raises ApiError."""
        started, code = time.perf_counter(), 0
        limit = self._timeout if timeout_s is None else _timeout(min(timeout_s, self._timeout_s))
        try:
            async with self._session.request(**await self._arguments(request), timeout=limit) as response:
                body = await response.read()
                code = response.status
                if code >= 400:
                    raise from_answer(code, body, response.headers, request.asked)
                return body
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _no_answer(error, request.asked) from error
        finally:
            self._metrics.requested(request.verb, request.resource, code, time.perf_counter() - started)

    async def stream(self, request: Request, *, silence_s: float) -> AsyncGenerator[bytes, None]:
        """The answer as it comes, in chunks; silence for so long is an error. Raises ApiError."""
        limit = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=silence_s)
        started = time.perf_counter()
        try:
            async with self._session.request(**await self._arguments(request), timeout=limit) as response:
                seconds = time.perf_counter() - started
                self._metrics.requested(request.verb, request.resource, response.status, seconds)
                if response.status >= 400:
                    raise from_answer(response.status, await response.read(), response.headers, request.asked)
                async for chunk in response.content.iter_any():
                    yield chunk
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _no_answer(error, request.asked) from error

    async def _arguments(self, request: Request) -> dict[str, Any]:
        headers = {"User-Agent": self._user_agent, **request.headers}
        # Reads the service account's token anew every minute: it is rotated.
        if token := await self.configuration.get_api_key_with_prefix("BearerToken", alias="authorization"):
            headers["Authorization"] = token
        url = URL(self._server + request.path, encoded=True)
        arguments: dict[str, Any] = {
            "method": request.method,
            "url": url.with_query(request.query) if request.query else url,
            "data": request.body,
            "headers": headers,
            "allow_redirects": False,
        }
        if self.configuration.proxy:
            arguments["proxy"] = self.configuration.proxy
        if self.configuration.tls_server_name:
            arguments["server_hostname"] = self.configuration.tls_server_name
        return arguments


@asynccontextmanager
async def connect(
    *,
    user_agent: str,
    kubeconfig: str | None = None,
    connections: int = 128,
    timeout_s: float = 30.0,
    metrics: ApiMetrics | None = None,
) -> AsyncIterator[Transport]:
    """A transport with the credentials of a kubeconfig file, or else of the pod this runs in."""
    configuration, loader = await load_configuration(kubeconfig)
    configuration.connection_pool_maxsize = connections
    # Looking for proxies in the environment costs on every request: only where there is one to find.
    proxied = any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name in os.environ)
    configuration.client_session_kwargs = {"trust_env": proxied}
    refresher = _keep_fresh(loader, configuration)
    try:
        async with _Rest(configuration).session() as session:
            yield Transport(
                configuration, session, user_agent=user_agent, timeout_s=timeout_s, metrics=metrics
            )
    finally:
        if refresher is not None:
            refresher.cancel()


def _keep_fresh(loader: Any, configuration: Configuration) -> asyncio.Task[None] | None:
    """A task that runs a kubeconfig's credential plugin anew before its token expires."""
    if loader is None or not (loader.provider == "gcp" or "exec" in (loader._user or ())):  # noqa: SLF001
        return None
    return asyncio.create_task(refresh_token(loader, configuration))


async def load_configuration(kubeconfig: str | None) -> tuple[Configuration, Any]:
    """The official client's configuration, and the loader that keeps its token fresh, if it needs one."""
    configuration = Configuration()
    if kubeconfig is None:
        load_incluster_config(configuration)
        return configuration, None
    loader = await load_kube_config(
        config_file=kubeconfig, client_configuration=configuration, persist_config=False
    )
    return configuration, loader


def _timeout(seconds: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=seconds, sock_connect=min(seconds, CONNECT_TIMEOUT_S))


def _no_answer(error: Exception, asked: str) -> Unavailable | ServerTimeout:
    if isinstance(error, TimeoutError):
        return ServerTimeout(f"no answer in time ({type(error).__name__})", asked=asked)
    return Unavailable(f"no connection ({type(error).__name__}: {error})", asked=asked)
