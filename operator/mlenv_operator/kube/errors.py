"""What the API server can answer, as a tree of exceptions.

::

    ApiError                   code, reason, message, and what was asked
    ├── BadRequest             400, 405, 406, 413, 415: a mistake of this program
    │   └── Invalid            422: ``causes`` name the fields; also a JSON patch whose ``test`` failed
    ├── Unauthorized           401
    ├── Forbidden              403: this account may not (RBAC)
    │   ├── RejectedByPolicy   ``policy``: quota, PodSecurity, webhook, admission policy, account, other
    │   └── NamespaceTerminating
    ├── NotFound               404
    ├── Conflict               409: the stored resourceVersion or uid is another; read and try again
    ├── AlreadyExists          409: the name is taken (no Conflict: the cure is another one)
    ├── Gone                   410: list anew
    └── Transient              again later, ``retry_after_s`` when the server said when
        ├── Throttled          429
        ├── Unavailable        503, or no connection (code 0)
        ├── ServerTimeout      504, or no answer within our own limit (code 0)
        └── Internal           500 and whatever else begins with 5
    LeaseLost                  not the server's: the write gate is shut, nothing was sent

A Transient after a write leaves open whether the write happened.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping


class LeaseLost(Exception):
    """The write was not sent, because the Lease is not surely ours."""


class ApiError(Exception):
    """The API server refused, or could not be asked."""

    def __init__(
        self, message: str, *, code: int = 0, reason: str = "", asked: str = "", details: Any = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.asked = asked
        """Verb and resource, as "create pods team-a/ranker-0-0"."""
        self.details: dict[str, Any] = details or {}

    def __str__(self) -> str:
        """What was asked, and what the server said to it."""
        return f"{self.asked}: {self.message} ({self.code or 'no answer'} {self.reason})".rstrip(" )") + ")"


class BadRequest(ApiError):
    """400, 405, 406, 413, 415."""


class Cause(NamedTuple):
    """One thing wrong with an object."""

    field: str
    message: str


class Invalid(BadRequest):
    """422."""

    @property
    def causes(self) -> tuple[Cause, ...]:
        """What is wrong, field by field."""
        causes = self.details.get("causes") or ()
        return tuple(Cause(str(one.get("field", "")), str(one.get("message", ""))) for one in causes)


class Unauthorized(ApiError):
    """401."""


class Forbidden(ApiError):
    """403: this account may not."""


class Policy(StrEnum):
    """What kind of rule of the cluster an object offended."""

    QUOTA = "Quota"
    POD_SECURITY = "PodSecurity"
    WEBHOOK = "Webhook"
    ADMISSION_POLICY = "AdmissionPolicy"
    SERVICE_ACCOUNT = "ServiceAccount"
    OTHER = "Other"


class RejectedByPolicy(Forbidden):
    """A rule of the cluster forbids this object, whoever asks."""

    def __init__(self, message: str, *, policy: Policy, **about: Any) -> None:
        super().__init__(message, **about)
        self.policy = policy


class NamespaceTerminating(Forbidden):
    """The namespace is being deleted: nothing new can be made in it."""


class NotFound(ApiError):
    """404."""


class Conflict(ApiError):
    """409."""


class AlreadyExists(ApiError):
    """409, reason AlreadyExists."""


class Gone(ApiError):
    """410."""


class Transient(ApiError):
    """Again later."""

    retry_after_s: float = 0.0
    """What the server asked for; 0 when it did not."""


class Throttled(Transient):
    """429."""


class Unavailable(Transient):
    """503, or no connection."""


class ServerTimeout(Transient):
    """504, or no answer in time."""


class Internal(Transient):
    """500."""


_BY_CODE: Final[Mapping[int, type[ApiError]]] = {
    401: Unauthorized,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
    429: Throttled,
    503: Unavailable,
    504: ServerTimeout,
}
# In the words of the API server (k8s.io/apiserver, stable for years; there is no field to ask instead).
_POLICIES: Final = (
    (re.compile(r"admission webhook \"[^\"]*\" denied the request"), Policy.WEBHOOK),
    (re.compile(r"ValidatingAdmissionPolicy '[^']*' .*denied request"), Policy.ADMISSION_POLICY),
    (re.compile(r"violates PodSecurity "), Policy.POD_SECURITY),
    (re.compile(r"exceeded quota: |failed quota: "), Policy.QUOTA),
    (re.compile(r"error looking up service account "), Policy.SERVICE_ACCOUNT),
)
_RBAC: Final = re.compile(r"cannot \S+ (resource|path) ")


def from_answer(status: int, body: bytes, headers: Mapping[str, str], asked: str) -> ApiError:
    """The exception for an answer of 400 or more."""
    said = _status_of(body)
    about = {
        "code": status,
        "reason": str(said.get("reason") or ""),
        "asked": asked,
        "details": said.get("details"),
    }
    message = str(said.get("message") or body[:300].decode(errors="replace") or "no message")
    error = _refusal(status, message, about)
    if isinstance(error, Transient):
        error.retry_after_s = _retry_after(headers, error.details)
    return error


def from_status(status: Mapping[str, Any], asked: str) -> ApiError:
    """The exception for a Status object, as an ERROR event of a watch carries it."""
    return from_answer(int(status.get("code") or 500), orjson.dumps(status), {}, asked)


def _refusal(status: int, message: str, about: dict[str, Any]) -> ApiError:
    if 400 <= status < 500 and (policy := _policy_of(message)) is not None:
        return RejectedByPolicy(message, policy=policy, **about)
    if status == 403:
        return _forbidden(message, about)
    if status == 409 and about["reason"] == "AlreadyExists":
        return AlreadyExists(message, **about)
    return _class_of(status)(message, **about)


def _class_of(status: int) -> type[ApiError]:
    return _BY_CODE.get(status) or (Internal if status >= 500 else BadRequest)


def _forbidden(message: str, about: dict[str, Any]) -> ApiError:
    causes = (about["details"] or {}).get("causes") or ()
    if any(cause.get("reason") == "NamespaceTerminating" for cause in causes):
        return NamespaceTerminating(message, **about)
    if _RBAC.search(message):
        return Forbidden(message, **about)
    return RejectedByPolicy(message, policy=Policy.OTHER, **about)


def _policy_of(message: str) -> Policy | None:
    return next((policy for pattern, policy in _POLICIES if pattern.search(message)), None)


def _status_of(body: bytes) -> dict[str, Any]:
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return said if isinstance(said, dict) else {}


def _retry_after(headers: Mapping[str, str], details: Mapping[str, Any]) -> float:
    try:
        return max(0.0, float(headers.get("Retry-After") or details.get("retryAfterSeconds") or 0))
    except ValueError:  # an HTTP date: nobody here sends those
        return 0.0
