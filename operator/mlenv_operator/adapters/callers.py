"""Who asks for costs, and of which namespaces they may know: TokenReview, then SubjectAccessReview.

Only tokens made for this are taken: one that opens the API server has no business here. What the API server
said is remembered for a short time, so a right that is taken away ends within it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from mlenv_api import names
from mlenv_operator.adapters.tokens import MAX_TOKEN, ReviewDelayedError, TokenError
from mlenv_operator.runtime.workqueue import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from mlenv_operator.runtime.clock import Clock

REMEMBERED_S: Final = 30.0
REMEMBERED: Final = 20_000
REVIEWS_PER_S: Final = 20.0
BURST: Final = 200
ASKED_AT_A_TIME: Final = 16
MAX_NAMESPACES: Final = 500
EVERYWHERE: Final = ""


class ForbiddenError(Exception):
    """The caller may not know this: 403."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as the API server knows them, in the fields of a SubjectAccessReview."""

    user: str
    spec: dict[str, Any] = field(hash=False)


class Callers:
    """Answers who asks and what they may see. `review` and `may` ask the API server, and may raise."""

    def __init__(
        self,
        review: Callable[[str], Awaitable[dict[str, Any]]],
        may: Callable[[dict[str, Any]], Awaitable[bool]],
        clock: Clock,
    ) -> None:
        self._review = review
        self._may = may
        self._clock = clock
        self._bucket = TokenBucket(clock, per_second=REVIEWS_PER_S, burst=BURST)
        self._asking = asyncio.Semaphore(ASKED_AT_A_TIME)
        self._known: OrderedDict[Any, tuple[float, Any]] = OrderedDict()

    async def authenticate(self, token: str) -> Caller:
        """Who asks. Raises TokenError or ReviewDelayedError."""
        if not token or len(token) > MAX_TOKEN or not token.isascii():
            raise TokenError(f"there is no token, or one far too long; {HOW}")
        # Not the token itself: what is remembered opens nothing.
        key = hashlib.sha256(token.encode()).digest()
        status = self._recall(key)
        if status is None:
            if not self._bucket.take():
                raise ReviewDelayedError("too many tokens to review", 5.0)
            status = await self._asked(self._review(token))
            self._remember(key, status)
        return _caller(status)

    async def visible(
        self, caller: Caller, wanted: Iterable[str] | None, known: Iterable[str]
    ) -> list[str] | None:
        """Of which namespaces the caller may know: all that are wanted, else those among `known`.

        None: of everything, nodes that nobody held included. Raises ForbiddenError when something that is
        wanted may not be known, or nothing at all may.
        """
        everything = await self.allowed(caller, EVERYWHERE)
        if wanted is not None:
            some = sorted(set(wanted))
            verdicts = [True] * len(some) if everything else await self._all(caller, some)
            if refused := [name for name, good in zip(some, verdicts, strict=True) if not good]:
                raise _forbidden(caller, refused[0])
            return some
        if everything:
            return None
        some = sorted(set(known))
        if len(some) > MAX_NAMESPACES:
            raise ForbiddenError(f"there are {len(some)} namespaces: name those that you mean")
        verdicts = await self._all(caller, some)
        visible = [name for name, good in zip(some, verdicts, strict=True) if good]
        if not visible:
            raise _forbidden(caller, "any namespace that has costs")
        return visible

    async def _all(self, caller: Caller, namespaces: list[str]) -> list[bool]:
        return list(await asyncio.gather(*(self.allowed(caller, name) for name in namespaces)))

    async def allowed(self, caller: Caller, namespace: str) -> bool:
        """Whether they may know what this namespace cost; EVERYWHERE: what all cost."""
        key = (caller.user, repr(caller.spec), namespace)
        verdict = self._recall(key)
        if verdict is None:
            attributes = {
                "group": names.GROUP,
                "version": names.VERSION,
                "resource": names.COST_RESOURCE,
                "verb": "get",
                "namespace": namespace,
            }
            verdict = await self._asked(self._may({**caller.spec, "resourceAttributes": attributes}))
            self._remember(key, verdict)
        return bool(verdict)

    async def _asked(self, question: Awaitable[Any]) -> Any:
        try:
            async with self._asking:
                return await question
        except Exception as error:
            raise ReviewDelayedError(f"the API server could not be asked: {error}", 2.0) from error

    def _recall(self, key: Any) -> Any:
        until, value = self._known.get(key, (0.0, None))
        if self._clock.monotonic() < until:
            return value
        self._known.pop(key, None)
        return None

    def _remember(self, key: Any, value: Any) -> None:
        self._known[key] = (self._clock.monotonic() + REMEMBERED_S, value)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)


_MAKE: Final = f"kubectl create token {names.COST_ACCOUNT} --audience {names.COST_AUDIENCE}"
HOW: Final = f"make one with: {_MAKE} (docs/cost.md)"


def _caller(status: dict[str, Any]) -> Caller:
    if not status.get("authenticated"):
        raise TokenError(
            f"the API server does not accept the token: it is forged, expired or for others; {HOW}"
        )
    # An API server that knows no audiences names none: refused too.
    if names.COST_AUDIENCE not in (status.get("audiences") or ()):
        raise TokenError(f"the token is not meant for {names.COST_AUDIENCE}; {HOW}")
    user = status.get("user") or {}
    if not user.get("username"):
        raise TokenError("the API server does not say whose token it is")
    spec = {"user": str(user["username"])}
    spec |= {name: user[name] for name in ("uid", "groups", "extra") if user.get(name)}
    return Caller(spec["user"], spec)


def _forbidden(caller: Caller, what: str) -> ForbiddenError:
    return ForbiddenError(
        f"{caller.user} may not see the costs of {what}: somebody must grant the verb get on "
        f"{names.COST_RESOURCE}.{names.GROUP} there (docs/cost.md)"
    )
