"""The only code that talks to the API server: raw JSON over the official client, errors as sentences."""

from __future__ import annotations

import json
import os
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from yaml import YAMLError

from mlenv_sdk.errors import ConfigError, MlenvError, Unreachable, Unreadable, from_response
from mlenv_sdk.version import __version__

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from kubernetes.client.configuration import Configuration

MERGE_PATCH = "application/merge-patch+json"
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0


class Transport:
    """A kept connection to one API server.

    Raises ConfigError when there is no usable kubeconfig, and the other errors of ``mlenv_sdk.errors``.
    """

    def __init__(self, kubeconfig: str | os.PathLike[str] | None = None, context: str | None = None) -> None:
        # Half a second of imports that `mlenv version` and `mlenv --help` do without.
        from kubernetes.client.api_client import ApiClient  # noqa: PLC0415
        from urllib3 import disable_warnings  # noqa: PLC0415
        from urllib3.exceptions import InsecureRequestWarning  # noqa: PLC0415

        configuration, self.namespace = _configuration(kubeconfig, context)
        if not configuration.verify_ssl:  # the kubeconfig says so: no warning with every request
            disable_warnings(InsecureRequestWarning)
        self.host: str = configuration.host
        self._client = ApiClient(configuration)
        self._client.user_agent = f"mlenv-sdk/{__version__}"

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        what: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        seconds: float | None = None,
    ) -> dict[str, Any]:
        """One request and its JSON answer; ``what`` names the object in an error's sentence.

        ``seconds``: for connecting and reading together, where somebody waits who would rather not.
        """
        response = self._send(
            method, path, query, body=body, content_type=content_type, total_seconds=seconds
        )
        with self._sentences():
            data: bytes = response.read()
        if response.status >= 400:
            raise from_response(response.status, _text(data), what)
        return _object(data)

    def raw(
        self,
        path: str,
        query: Sequence[tuple[str, str]],
        headers: Mapping[str, str],
        seconds: float | None = None,
    ) -> tuple[int, bytes]:
        """One GET, its status and its body, whatever they are."""
        response = self._send("GET", path, query, headers=headers, total_seconds=seconds)
        with self._sentences():
            return int(response.status), bytes(response.read())

    def lines(
        self, path: str, *, what: str, query: Mapping[str, str], read_seconds: float | None
    ) -> Generator[str, None, None]:
        """One GET whose answer is a stream of lines, each given as soon as it is whole.

        A silence of ``read_seconds`` ends it with Unreachable; None waits for ever.
        """
        response = self._send("GET", path, query, read_seconds=read_seconds)
        with closing(response.response), self._sentences():
            if response.status >= 400:
                raise from_response(response.status, _text(response.read()), what)
            yield from split_lines(response.response.stream(decode_content=False))

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | Sequence[tuple[str, str]] | None,
        *,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        read_seconds: float | None = READ_SECONDS,
        total_seconds: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        url = self.host + path + (f"?{urlencode(query)}" if query else "")
        more = headers or {}
        headers = {"Accept": "application/json, */*", "User-Agent": self._client.user_agent, **more}
        if body is not None:
            headers["Content-Type"] = content_type
        timeout = (CONNECT_SECONDS, read_seconds) if total_seconds is None else total_seconds
        with self._sentences():
            self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
            return self._client.rest_client.request(
                method, url, headers=headers, body=body, _request_timeout=timeout
            )

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        """Turns what the HTTP library raises into one sentence."""
        from kubernetes.client.exceptions import OpenApiException  # noqa: PLC0415
        from urllib3.exceptions import HTTPError  # noqa: PLC0415

        try:
            yield
        except MlenvError:
            raise
        except (HTTPError, OSError, OpenApiException) as error:
            raise Unreachable(
                f"The API server at {self.host} does not answer ({_cause(error)}): "
                "check that the cluster runs and that KUBECONFIG names it."
            ) from error


def fetch(url: str, headers: Mapping[str, str], hint: str, seconds: float | None = None) -> tuple[int, bytes]:
    """One GET of another server than the API server; `hint` says what to do when it does not answer.

    No redirect is followed: it would carry the headers, and a token in them, anywhere.
    """
    from urllib3 import PoolManager, Timeout  # noqa: PLC0415
    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    timeout = Timeout(total=seconds, connect=CONNECT_SECONDS, read=READ_SECONDS)
    try:
        with PoolManager(retries=False, timeout=timeout) as pool:
            answer = pool.request("GET", url, headers=headers, redirect=False)
            return answer.status, answer.data
    except HTTPError as error:
        raise Unreachable(hint) from error


def split_lines(chunks: Iterator[bytes]) -> Iterator[str]:
    """Lines of a byte stream whose chunks end anywhere, also within a character."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield _text(line)
    if rest:
        yield _text(rest)


def _configuration(
    kubeconfig: str | os.PathLike[str] | None, context: str | None
) -> tuple[Configuration, str]:
    """The connection's configuration, and the namespace that goes with it."""
    from kubernetes.client.configuration import Configuration  # noqa: PLC0415
    from kubernetes.config import ConfigException  # noqa: PLC0415

    configuration = Configuration()
    configuration.retries = False  # a retry is logged by urllib3; callers retry where it makes sense
    path = str(kubeconfig or os.environ.get("KUBECONFIG") or Path.home() / ".kube" / "config")
    try:
        if any(Path(part).is_file() for part in path.split(os.pathsep) if part):
            return configuration, _load_file(configuration, path, context)
        if not kubeconfig and (SERVICE_ACCOUNT / "token").is_file():
            return configuration, _load_pod(configuration)
    except (TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"The file {path} is no kubeconfig.") from error
    except (ConfigException, YAMLError, OSError, ValueError) as error:
        raise ConfigError(f"The kubeconfig {path} cannot be used: {_cause(error)}.") from error
    raise ConfigError(
        f"There is no kubeconfig at {path}: give --kubeconfig, set KUBECONFIG, "
        "or start a local cluster (mlenv local up)."
    )


def _load_file(configuration: Configuration, path: str, context: str | None) -> str:
    from kubernetes.config import kube_config  # noqa: PLC0415

    kube_config.load_kube_config(
        config_file=path, context=context, client_configuration=configuration, persist_config=False
    )
    contexts, current = kube_config.list_kube_config_contexts(config_file=path)
    chosen = next((one for one in contexts if one["name"] == context), current)
    return str(chosen["context"].get("namespace") or "default")


def _load_pod(configuration: Configuration) -> str:
    from kubernetes.config.incluster_config import load_incluster_config  # noqa: PLC0415

    load_incluster_config(client_configuration=configuration)
    return (SERVICE_ACCOUNT / "namespace").read_text(encoding="utf-8").strip()


def _cause(error: BaseException) -> str:
    """The innermost reason, without class names and object addresses."""
    reason = getattr(error, "reason", None)
    if isinstance(reason, BaseException):
        return _cause(reason)
    if isinstance(error.__cause__, BaseException):
        return _cause(error.__cause__)
    text = " ".join(str(reason or error).split()) or type(error).__name__
    return text.rpartition(">: ")[2].rstrip(".")


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


def _object(data: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(data)
    except ValueError:
        raise Unreadable("The API server's answer is no JSON: is there a proxy in between?") from None
    if not isinstance(answer, dict):
        raise Unreadable("The API server's answer is no JSON object: is there a proxy in between?")
    return answer
