"""What can go wrong between a user and the platform, each as one sentence.

    MlenvError
    ├── ConfigError          no usable kubeconfig
    ├── Unreachable          the API server does not answer
    ├── InvalidManifest      what was given is no TrainingJob
    ├── Unreadable           the server's answer is not what this version understands
    ├── NotFound             no such job, pod or namespace
    │   └── NotInstalled     the platform is not installed in this cluster
    ├── AlreadyExists        a job of this name is there already
    ├── Conflict             somebody changed it in between
    ├── Unauthorized         the credentials are not accepted
    ├── Forbidden            the account may not do this
    ├── Rejected             the API server refuses the job; ``causes`` says why
    ├── Unavailable          the API server is overloaded or broken; trying again may help
    ├── NotReady             the pod has no log yet
    ├── TimedOut             it did not happen in time
    └── JobEnded             the job ended in another way than was waited for

Each text says what happened and what can be done about it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class MlenvError(Exception):
    """Base of all errors that this SDK raises; ``str()`` is a sentence for people."""


class ConfigError(MlenvError):
    """There is no usable kubeconfig."""


class Unreachable(MlenvError):
    """The API server does not answer."""


class InvalidManifest(MlenvError):
    """What was given is no TrainingJob."""


class Unreadable(MlenvError):
    """The server's answer is not what this version of the SDK understands."""


class NotFound(MlenvError):
    """There is no such object."""


class NotInstalled(NotFound):
    """The cluster does not know TrainingJobs."""


class AlreadyExists(MlenvError):
    """An object of this name is there already."""


class Conflict(MlenvError):
    """The object was changed by somebody else in between."""


class Unauthorized(MlenvError):
    """The credentials are not accepted."""


class Forbidden(MlenvError):
    """The account may not do this, or a quota or policy forbids it."""


class Unavailable(MlenvError):
    """The API server is overloaded or broken."""


class NotReady(MlenvError):
    """The pod has not started, so it has no log."""


class TimedOut(MlenvError):
    """What was waited for did not happen in time."""


class JobEnded(MlenvError):
    """The job ended in another way than was waited for."""


class Refused(MlenvError):
    """The job cannot do what was asked of it."""


@dataclass(frozen=True)
class Cause:
    """One reason why an object was rejected."""

    field: str
    """Path of the field, as ``spec.trainer.numNodes``; empty when it concerns the whole object."""
    message: str
    """What is wrong with it."""

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


class Rejected(MlenvError):
    """The API server refuses the object."""

    def __init__(self, message: str, causes: tuple[Cause, ...] = ()) -> None:
        super().__init__(message)
        self.causes = causes
        """Every reason that the server gave."""


def from_response(code: int, body: str, what: str) -> MlenvError:
    """The error for an HTTP answer of the API server; ``what`` names the object, as ``the job "x"``."""
    status = _status(body)
    message = str(status.get("message") or body.strip() or f"HTTP {code}")
    if code == 404:
        return _not_found(status, what)
    if code == 409:
        return _conflict(status, what, message)
    if code in {400, 422}:
        return _rejected(status, what, message)
    if code == 401:
        return Unauthorized(
            "The API server does not accept your credentials: log in again, or check KUBECONFIG."
        )
    if code == 403:
        return Forbidden(f"The API server forbids it: {message}.")
    return Unavailable(f"The API server answered {code} for {what}: {message}. Try again in a moment.")


def _status(body: str) -> Mapping[str, Any]:
    try:
        data = json.loads(body)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _not_found(status: Mapping[str, Any], what: str) -> MlenvError:
    details = status.get("details") or {}
    if not details.get("name"):
        return NotInstalled(
            "This cluster does not know TrainingJobs: install the chart (helm install mlenv helm/mlenv)."
        )
    if details.get("kind") == "namespaces":
        return NotFound(f'The namespace "{details["name"]}" does not exist.')
    return NotFound(f"There is no {what.removeprefix('the ')}.")


def _conflict(status: Mapping[str, Any], what: str, message: str) -> MlenvError:
    if status.get("reason") == "AlreadyExists":
        return AlreadyExists(
            f"{_sentence_start(what)} exists already: choose another name, or delete it (mlenv delete)."
        )
    return Conflict(f"{_sentence_start(what)} was changed in between: {message}. Try again.")


def _rejected(status: Mapping[str, Any], what: str, message: str) -> MlenvError:
    details = status.get("details") or {}
    causes = tuple(
        Cause(field=_field(cause), message=str(cause.get("message") or "is invalid"))
        for cause in details.get("causes") or ()
    )
    reasons = "; ".join(str(cause) for cause in causes) or message
    return Rejected(f"{_sentence_start(what)} was rejected: {reasons}.", causes)


def _field(cause: Mapping[str, Any]) -> str:
    field = str(cause.get("field") or "")
    return "" if field == "<nil>" else field


def _sentence_start(what: str) -> str:
    return what[:1].upper() + what[1:]
