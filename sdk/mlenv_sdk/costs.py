"""What training cost, asked of the operator's ledger. Money is in whole nanodollars: 10**9 are one dollar.

Requests go through the API server's proxy with the kubeconfig's own credentials. These do not travel on, so
a second token says who asks: one of a service account, good for ten minutes and for asking for costs alone.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode, urlsplit

from mlenv_api.names import COST_ACCOUNT, COST_AUDIENCE, COST_HEADER, COST_PATH
from mlenv_sdk.errors import (
    ConfigError,
    Forbidden,
    MlenvError,
    NotFound,
    NotInstalled,
    Rejected,
    TimedOut,
    Unauthorized,
    Unavailable,
    Unreadable,
)
from mlenv_sdk.estimates import Estimate, asked, read_estimate
from mlenv_sdk.transport import fetch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mlenv_sdk.resources import TrainingJob
    from mlenv_sdk.transport import Transport

ENV_URL: Final = "MLENV_COST_URL"
"""Where costs are told, when not through the API server: https, or this machine."""
ENV_TOKEN: Final = "MLENV_COST_TOKEN"  # noqa: S105
"""The token to ask with, instead of one that is made anew."""
ENV_ACCOUNT: Final = "MLENV_COST_ACCOUNT"
"""The service account to ask as, as `name` or `namespace/name`."""
ENV_SERVICE: Final = "MLENV_COST_SERVICE"
"""The Service that tells costs, as `namespace/name`."""
SERVICE: Final = "mlenv-system/mlenv-operator-costs"
TOKEN_SECONDS: Final = 600
TRIES: Final = 12
"""A replica that does not lead says so, and the proxy takes any: the next try may meet the other."""
LINES: Final = 1000
MOST_LINES: Final = 5000
_LOCAL: Final = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Amounts:
    """Money in nanodollars; time in microseconds, that of devices times their number."""

    cost: int
    list_cost: int
    gpu_micros: int
    held_micros: int

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Amounts:
        """From JSON."""
        names = ("costNanos", "listCostNanos", "gpuMicros", "heldMicros")
        return cls(*(int(told[name]) for name in names))


@dataclass(frozen=True, slots=True)
class Report:
    """Costs of a time, by anything."""

    by: tuple[str, ...]
    groups: tuple[tuple[tuple[str, ...], Amounts], ...]
    rest: Amounts
    """What the groups that are not here are together; with these it is the total, exactly."""
    rest_groups: int
    total: Amounts
    since: str
    until: str
    settled_until: str | None
    """Hours from here on are still open, and not in it."""
    namespaces: tuple[str, ...] | None
    """Those it is about; None: all, and what nobody held."""
    raw: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Bill:
    """What a job cost so far, open hours included."""

    namespace: str
    job: str
    uid: str
    same_name: tuple[str, ...]
    """Other jobs that had this name."""
    categories: tuple[tuple[str, Amounts], ...]
    cost: int
    list_cost: int
    rate: int
    """Nanodollars an hour, now."""
    as_of: str
    raw: dict[str, Any]
    unpriced_micros: int = 0
    """Time of its pods that has no price: what it cost is unknown, and in no sum."""


@dataclass(frozen=True, slots=True)
class Charge:
    """One row of the ledger: what a pod cost in an hour of a node, in one category and attempt."""

    hour: str
    pod: str
    node: str
    category: str
    attempt: int
    intervals: tuple[tuple[str, str], ...]
    price_id: str
    """Empty: nobody knew the price."""
    reason: str
    """`closed`, or why it was corrected."""
    revision: int
    amounts: Amounts
    raw: dict[str, Any]


class Costs:
    """Questions about costs; get it as `client.costs`."""

    def __init__(self, transport: Transport, namespace: str, seconds: float | None = None) -> None:
        self._transport = transport
        self._namespace = namespace
        self._token = os.environ.get(ENV_TOKEN, "")
        self._end = None if seconds is None else time.monotonic() + seconds

    def within(self, seconds: float) -> Costs:
        """The same, for who would rather not wait: all that is asked is told so soon, or raises an error."""
        return Costs(self._transport, self._namespace, seconds)

    def group(self, by: Sequence[str] = ("namespace",), **said: Any) -> Report:
        """Costs by anything, as `group(["team", "category"], month="2025-11", where={"user": "ann"})`.

        `since` and `until` are whole hours, UTC; `month` is a month as billed; `limit`, `offset` and `sort`
        (`cost` or `key`) choose what of it is shown.
        """
        return _report(self._json("", _query(by, **said)))

    def job(self, name: str, uid: str | None = None) -> Bill:
        """What a job cost so far; of several of that name the newest, or that of this UID."""
        return _bill(self._json(self._path(name), _uid(uid)))

    def explain(self, name: str, uid: str | None = None) -> Iterator[Charge]:
        """Every charge of a job, oldest first."""
        offset: int | None = 0
        while offset is not None:
            query = [*_uid(uid), ("limit", str(LINES)), ("offset", str(offset))]
            told = self._json(f"{self._path(name)}/explain", query)
            uid = str(told["uid"])  # the same job, also when another of that name begins meanwhile
            yield from map(_charge, told["lines"])
            offset = told["nextOffset"]

    def estimate(self, job: TrainingJob | Mapping[str, Any], seconds: int | None = None) -> Estimate:
        """What a job would cost, an hour and in so many seconds, before it is submitted.

        By the cluster's nodes and environments, and the prices that bills are made of. Unknown is None.
        """
        namespace, query = asked(job, seconds)
        path = f"/estimates/{quote(namespace or self._namespace, safe='')}"
        told = self._json(path, query)
        try:
            return read_estimate(told)
        except (LookupError, TypeError, ValueError) as error:
            raise Unreadable("What came is no estimate that this SDK knows: is it too old?") from error

    def group_as(self, format_: str, by: Sequence[str] = ("namespace",), **said: Any) -> bytes:
        """The same as a file: `csv` or `parquet`."""
        return self._get("", [*_query(by, **said), ("format", format_)])

    def job_as(self, format_: str, name: str, uid: str | None = None) -> bytes:
        """A bill as a file."""
        return self._get(self._path(name), [*_uid(uid), ("format", format_)])

    def explain_as(self, format_: str, name: str, uid: str | None = None) -> bytes:
        """All charges as a file; refused when these are more than one answer holds."""
        path = f"{self._path(name)}/explain"
        if self._json(path, [*_uid(uid), ("limit", "1"), ("offset", str(MOST_LINES))])["lines"]:
            raise Rejected(f"There are more than {MOST_LINES:,} charges: take them as JSON (-o json).")
        return self._get(path, [*_uid(uid), ("format", format_), ("limit", str(MOST_LINES))])

    def _path(self, name: str) -> str:
        return f"/jobs/{quote(self._namespace, safe='')}/{quote(name, safe='')}"

    def _json(self, path: str, query: Sequence[tuple[str, str]]) -> dict[str, Any]:
        try:
            told = json.loads(self._get(path, query))
        except ValueError:
            told = None
        if not isinstance(told, dict) or told.get("version") != "v1":
            raise Unreadable("What came is no answer of version v1 about costs: is this SDK too old?")
        return told

    def _get(self, path: str, query: Sequence[tuple[str, str]]) -> bytes:
        for _ in range(TRIES):
            status, body = self._send(COST_PATH + path, query)
            if status == 200:
                return body
            if status != 421:
                raise _error(status, body)
        raise Unavailable("No replica of the operator leads: try again in a moment.")

    def _send(self, path: str, query: Sequence[tuple[str, str]]) -> tuple[int, bytes]:
        self._token = self._token or self._new_token()
        if url := os.environ.get(ENV_URL, ""):
            return _direct(url.rstrip("/") + path, query, self._token, self._left())
        namespace, name = _pair(ENV_SERVICE, SERVICE, "mlenv-system")
        proxy = f"/api/v1/namespaces/{quote(namespace)}/services/{quote(name)}:http/proxy"
        return self._transport.raw(proxy + path, query, {COST_HEADER: self._token}, self._left())

    def _left(self) -> float | None:
        """Seconds that the next request may take."""
        left = None if self._end is None else self._end - time.monotonic()
        if left is not None and left <= 0:
            raise TimedOut("Costs were not told in time.")
        return left

    def _new_token(self) -> str:
        namespace, name = _pair(ENV_ACCOUNT, COST_ACCOUNT, self._namespace)
        what = f'the service account "{name}" in {namespace}'
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [COST_AUDIENCE], "expirationSeconds": TOKEN_SECONDS},
        }
        path = f"/api/v1/namespaces/{quote(namespace)}/serviceaccounts/{quote(name)}/token"
        try:
            answer = self._transport.call("POST", path, what=what, body=body, seconds=self._left())
        except NotFound as error:
            raise NotFound(
                f"There is no {what.removeprefix('the ')}, in whose name costs are asked for: the platform "
                f"team makes it once (docs/cost.md); {ENV_ACCOUNT} names another."
            ) from error
        except Forbidden as error:
            raise Forbidden(
                f"You may not ask in the name of {what}: somebody must let you create tokens of it "
                f"(docs/cost.md); {ENV_ACCOUNT} names another account."
            ) from error
        return str((answer.get("status") or {}).get("token") or "")


def _pair(variable: str, default: str, namespace: str) -> tuple[str, str]:
    text = os.environ.get(variable) or default
    before, slash, name = text.rpartition("/")
    if not name or "/" in before or (slash and not before):
        raise ConfigError(f"{variable} must be a name, or namespace/name, not {text!r}.")
    return before or namespace, name


def _direct(
    url: str, query: Sequence[tuple[str, str]], token: str, seconds: float | None
) -> tuple[int, bytes]:
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in _LOCAL:
        raise ConfigError(
            f"{ENV_URL} must begin with https://: a token does not travel where all can read it."
        )
    hint = f"{parts.scheme}://{parts.netloc} does not answer: check {ENV_URL}."
    return fetch(f"{url}?{urlencode(query)}", {"Authorization": f"Bearer {token}"}, hint, seconds)


def _query(
    by: Sequence[str], where: Mapping[str, str | Sequence[str]] | None = None, **said: Any
) -> list[tuple[str, str]]:
    if unknown := set(said) - {"since", "until", "month", "limit", "offset", "sort"}:
        raise TypeError(f"unexpected keyword argument {min(unknown)!r}")
    pairs = [("by", ",".join(by))]
    pairs += [(name, str(value)) for name, value in said.items() if value is not None]
    for name, values in (where or {}).items():
        pairs += [(name, value) for value in ([values] if isinstance(values, str) else values)]
    return pairs


def _uid(uid: str | None) -> list[tuple[str, str]]:
    return [("uid", uid)] if uid else []


def _report(told: dict[str, Any]) -> Report:
    by = tuple(told["by"])
    groups = ((tuple(one["key"][name] for name in by), Amounts.of(one)) for one in told["groups"])
    return Report(
        by=by,
        groups=tuple(groups),
        rest=Amounts.of(told["rest"]),
        rest_groups=told["rest"]["groups"],
        total=Amounts.of(told["total"]),
        since=told["since"],
        until=told["until"],
        settled_until=told["settledUntil"],
        namespaces=None if told["namespaces"] is None else tuple(told["namespaces"]),
        raw=told,
    )


def _bill(told: dict[str, Any]) -> Bill:
    return Bill(
        namespace=told["namespace"],
        job=told["job"],
        uid=told["uid"],
        same_name=tuple(told["sameName"]),
        categories=tuple((one["category"], Amounts.of(one)) for one in told["categories"]),
        cost=int(told["costNanos"]),
        list_cost=int(told["listCostNanos"]),
        rate=int(told["rateNanosPerHour"]),
        as_of=told["asOf"],
        raw=told,
        unpriced_micros=int(told.get("unpricedMicros", 0)),
    )


def _charge(told: dict[str, Any]) -> Charge:
    return Charge(
        hour=told["hour"],
        pod=told["pod"],
        node=told["node"],
        category=told["category"],
        attempt=told["attempt"],
        intervals=tuple((begin, end) for begin, end in told["intervals"]),
        price_id=(told["price"] or {}).get("id", ""),
        reason=told["reason"],
        revision=told["revision"],
        amounts=Amounts.of(told),
        raw=told,
    )


def _error(status: int, body: bytes) -> MlenvError:
    """What the operator said, or the API server on the way to it."""
    try:
        told = json.loads(body)
    except ValueError:
        told = {}
    told = told if isinstance(told, dict) else {}
    message = str(told.get("message") or f"HTTP {status}")
    if told.get("kind") == "Status":
        return _on_the_way(status, message)
    text = message[:1].upper() + message[1:]
    return _KINDS.get(status, Unavailable)(text if text.endswith(".") else f"{text}.")


_KINDS: Final[dict[int, type[MlenvError]]] = {
    400: Rejected,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    422: Rejected,
}


def _on_the_way(status: int, message: str) -> MlenvError:
    if status == 404:
        return NotInstalled(
            f"Nothing tells costs in this cluster ({message}): the chart does with ledger.type set; "
            f"{ENV_SERVICE} names another Service, {ENV_URL} an address."
        )
    if status == 403:
        return Forbidden(
            f"The API server does not let you through to where costs are told: {message}. "
            "The chart's value costs.reachableBy says who may."
        )
    if status == 401:
        return Unauthorized("The API server does not accept your credentials: log in again.")
    # The proxy says the same of a Service that nobody made as of one without a ready pod.
    return Unavailable(
        f"Costs are not told now: {message}. Is the operator up, and ledger.type set in the chart? "
        f"{ENV_SERVICE} names another Service."
    )
