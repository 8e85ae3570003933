"""Whose token is this: launchers' projected service-account tokens, reviewed by the API server.

An answer of the API server is kept until the token expires, and honoured only while the pod lives. Nothing
in a token is believed before the API server has said that it is authentic. What an unreviewed token *claims*
is used against it alone: a claim that cannot be true costs no review, and every claimed pod has a small
budget of reviews, so that a flood of forged tokens reaches neither the API server nor the beats of others.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson

from mlenv_operator.runtime.workqueue import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mlenv_operator.runtime.clock import Clock

MAX_TOKEN: Final = 8192
POD_NAME_KEY: Final = "authentication.kubernetes.io/pod-name"
POD_UID_KEY: Final = "authentication.kubernetes.io/pod-uid"
_ACCOUNT_PREFIX: Final = "system:serviceaccount:"


class TokenError(Exception):
    """The token does not say who speaks: 401."""


class NotOursError(Exception):
    """The token is authentic, and its pod is none that lives and is ours: 403."""


class ReviewDelayedError(Exception):
    """The token cannot be reviewed now: 503, again after ``retry_after_s``."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class PodIdentity:
    """The pod that speaks, as the API server knows it."""

    namespace: str
    pod_name: str
    pod_uid: str
    service_account: str


class ReviewMetrics(Protocol):
    """Where reviews are counted."""

    def reviewed(self, result: str) -> None:
        """``authenticated``, ``refused``, ``limited`` or ``failed``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLimits:
    """How much may be remembered and asked."""

    remembered: int = 20_000
    reviews_per_s: float = 200.0
    burst: int = 400
    reviews_per_pod_per_s: float = 0.2
    burst_per_pod: int = 5
    refusal_remembered_s: float = 10.0
    in_flight: int = 64


@dataclass(frozen=True, slots=True)
class _Known:
    identity: PodIdentity | None  # None: refused
    reason: str
    until: float


class TokenAuthenticator:
    """Answers for launchers' tokens.

    ``review`` asks the API server and returns the status of a TokenReview, raising whatever it likes when it
    cannot; ``is_live`` says whether the informer holds a live pod of ours with that uid.
    """

    def __init__(
        self,
        review: Callable[[str], Awaitable[dict[str, Any]]],
        is_live: Callable[[str], bool],
        clock: Clock,
        *,
        audience: str,
        limits: TokenLimits | None = None,
        metrics: ReviewMetrics | None = None,
    ) -> None:
        self._review = review
        self._is_live = is_live
        self._clock = clock
        self._audience = audience
        self._limits = limits or TokenLimits()
        self._metrics = metrics
        self._accepted: OrderedDict[bytes, _Known] = OrderedDict()
        self._refused: OrderedDict[bytes, _Known] = OrderedDict()
        self._in_flight: dict[bytes, asyncio.Task[_Known]] = {}
        self._bucket = TokenBucket(clock, per_second=self._limits.reviews_per_s, burst=self._limits.burst)
        self._pod_buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    async def authenticate(self, token: str) -> PodIdentity:
        """The pod that speaks. Raises TokenError, NotOursError or ReviewDelayedError."""
        if not token or len(token) > MAX_TOKEN:
            raise TokenError("no token, or one far too long")
        # Neither the token nor what could be turned back into it is kept.
        key = hashlib.sha256(token.encode()).digest()
        known = self._recall(key) or await self._ask(key, token)
        if known.identity is None:
            raise TokenError(known.reason)
        if not self._is_live(known.identity.pod_uid):
            raise NotOursError(f"pod {known.identity.pod_name} is not a live pod of a TrainingJob")
        return known.identity

    def _recall(self, key: bytes) -> _Known | None:
        for memory in (self._accepted, self._refused):
            known = memory.get(key)
            if known is not None and self._clock.monotonic() < known.until:
                memory.move_to_end(key)
                return known
            memory.pop(key, None)
        return None

    async def _ask(self, key: bytes, token: str) -> _Known:
        """One review at a time for a token, which goes on when a caller goes away."""
        task = self._in_flight.get(key)
        if task is None:
            self._admit(token)
            task = asyncio.create_task(self._reviewed(key, token))
            self._in_flight[key] = task
            task.add_done_callback(lambda done: self._landed(key, done))
        return await asyncio.shield(task)

    def _landed(self, key: bytes, task: asyncio.Task[_Known]) -> None:
        self._in_flight.pop(key, None)
        if not task.cancelled():
            task.exception()  # fetched, lest it be reported when every caller has gone away

    def _admit(self, token: str) -> None:
        claimed = _claimed_pod(token)
        if not self._is_live(claimed):
            raise NotOursError("the token claims a pod that is not a live pod of a TrainingJob")
        if (
            len(self._in_flight) >= self._limits.in_flight
            or not self._pod_bucket(claimed).take()
            or not self._bucket.take()
        ):
            self._count("limited")
            raise ReviewDelayedError("too many tokens to review", 5.0)

    def _pod_bucket(self, uid: str) -> TokenBucket:
        bucket = self._pod_buckets.get(uid)
        if bucket is None:
            limits = self._limits
            bucket = TokenBucket(
                self._clock, per_second=limits.reviews_per_pod_per_s, burst=limits.burst_per_pod
            )
            self._pod_buckets[uid] = bucket
            _trim(self._pod_buckets, limits.remembered)
        return bucket

    async def _reviewed(self, key: bytes, token: str) -> _Known:
        try:
            status = await self._review(token)
        except Exception as error:
            self._count("failed")
            raise ReviewDelayedError(f"the API server could not review the token: {error}", 2.0) from error
        known = self._judge(status, token)
        memory = self._refused if known.identity is None else self._accepted
        memory[key] = known
        _trim(memory, self._limits.remembered)
        self._count("refused" if known.identity is None else "authenticated")
        return known

    def _judge(self, status: dict[str, Any], token: str) -> _Known:
        now = self._clock.monotonic()
        try:
            identity = _identity(status, self._audience)
            expires_in = _claims(token)["exp"] - self._clock.now().timestamp()
        except TokenError as error:
            return _Known(None, str(error), now + self._limits.refusal_remembered_s)
        except (KeyError, TypeError):
            reason = "the token does not say when it expires"
            return _Known(None, reason, now + self._limits.refusal_remembered_s)
        return _Known(identity, "", now + expires_in)

    def _count(self, result: str) -> None:
        if self._metrics is not None:
            self._metrics.reviewed(result)


def _identity(status: dict[str, Any], audience: str) -> PodIdentity:
    """Whom the API server has recognised. An API server that knows no audiences names none: refused too."""
    if not status.get("authenticated"):
        raise TokenError(
            "the API server does not accept the token: it is forged, expired or of a deleted pod"
        )
    if audience not in (status.get("audiences") or ()):
        raise TokenError(f"the token is not meant for {audience}")
    user = status.get("user") or {}
    account = str(user.get("username") or "")
    names = account.removeprefix(_ACCOUNT_PREFIX).split(":")
    extra = user.get("extra") or {}
    pod_name, pod_uid = extra.get(POD_NAME_KEY) or (), extra.get(POD_UID_KEY) or ()
    if not account.startswith(_ACCOUNT_PREFIX) or len(names) != 2 or not pod_name or not pod_uid:
        raise TokenError("the token is not bound to a pod")
    return PodIdentity(names[0], str(pod_name[0]), str(pod_uid[0]), names[1])


def _claimed_pod(token: str) -> str:
    try:
        return str(_claims(token)["kubernetes.io"]["pod"]["uid"])
    except (KeyError, TypeError):
        raise TokenError("the token is not bound to a pod") from None


def _claims(token: str) -> dict[str, Any]:
    """What the token says of itself."""
    parts = token.split(".")
    if len(parts) != 3:
        raise TokenError("not a service-account token")
    try:
        claims = orjson.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        raise TokenError("not a service-account token") from None
    if not isinstance(claims, dict):
        raise TokenError("not a service-account token")
    return claims


def _trim(memory: OrderedDict[Any, Any], size: int) -> None:
    while len(memory) > size:
        memory.popitem(last=False)
