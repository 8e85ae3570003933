from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from mlenv_operator.adapters.tokens import (
    NotOursError,
    PodIdentity,
    ReviewDelayedError,
    TokenAuthenticator,
    TokenError,
    TokenLimits,
)
from mlenv_operator.runtime.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import Coroutine

US = "mlenv-operator"
POD_A = PodIdentity("ns", "job-0-0", "uid-a", "default")


def token(pod_uid: str = "uid-a", *, lasts: float = 3600, salt: str = "") -> str:
    expires = int(FakeClock().now().timestamp() + lasts)
    claims = {"exp": expires, "kubernetes.io": {"pod": {"uid": pod_uid}}, "salt": salt}
    body = base64.urlsafe_b64encode(orjson.dumps(claims)).rstrip(b"=").decode()
    return f"head.{body}.signature"


def accepted(**more: Any) -> dict[str, Any]:
    extra = {
        "authentication.kubernetes.io/pod-name": ["job-0-0"],
        "authentication.kubernetes.io/pod-uid": ["uid-a"],
    }
    user = {"username": "system:serviceaccount:ns:default", "extra": extra}
    return {"authenticated": True, "audiences": [US], "user": user} | more


class Server:
    """The API server's side, as far as reviews go."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.answer: dict[str, Any] | Exception = accepted()
        self.seconds = 0.0
        self.reviewed: list[str] = []

    async def review(self, asked: str) -> dict[str, Any]:
        self.reviewed.append(asked)
        if self.seconds:
            await self.clock.sleep(self.seconds)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Setup:
    def __init__(self, **limits: Any) -> None:
        self.clock = FakeClock()
        self.server = Server(self.clock)
        self.live = {"uid-a", "uid-b"}
        self.results: list[str] = []
        self.tokens = TokenAuthenticator(
            self.server.review,
            lambda uid: uid in self.live,
            self.clock,
            audience=US,
            limits=TokenLimits(**limits),
            metrics=self,
        )

    def reviewed(self, result: str) -> None:
        self.results.append(result)

    def ask(self, text: str) -> Coroutine[Any, Any, PodIdentity]:
        return self.tokens.authenticate(text)


async def test_a_good_token_says_which_pod_speaks_and_is_reviewed_once() -> None:
    it = Setup()
    assert await it.ask(token()) == POD_A
    assert await it.ask(token()) == POD_A
    assert len(it.server.reviewed) == 1
    assert it.results == ["authenticated"]


async def test_after_it_expired_it_is_reviewed_again() -> None:
    it = Setup()
    await it.ask(token(lasts=100))
    await it.clock.advance(101)
    it.server.answer = {"authenticated": False}
    with pytest.raises(TokenError, match="does not accept"):
        await it.ask(token(lasts=100))


async def test_it_counts_only_while_the_pod_lives() -> None:
    it = Setup()
    await it.ask(token())
    it.live.clear()
    with pytest.raises(NotOursError, match="job-0-0"):
        await it.ask(token())


async def test_the_pod_is_the_one_the_server_names_not_the_one_the_token_claims() -> None:
    it = Setup()
    assert (await it.ask(token("uid-b"))).pod_uid == "uid-a"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({}, "does not accept"),
        ({"authenticated": False, "error": "expired"}, "does not accept"),
        (accepted(audiences=["https://kubernetes.default.svc"]), "not meant for"),
        (accepted(audiences=None), "not meant for"),
        (accepted(user={"username": "system:serviceaccount:ns:default"}), "not bound to a pod"),
        (accepted(user=accepted()["user"] | {"username": "admin"}), "not bound to a pod"),
    ],
)
async def test_what_the_server_does_not_vouch_for_is_refused_and_not_asked_again_at_once(
    answer: dict[str, Any], why: str
) -> None:
    it = Setup()
    it.server.answer = answer
    for _ in range(3):
        with pytest.raises(TokenError, match=why):
            await it.ask(token())
    assert len(it.server.reviewed) == 1
    await it.clock.advance(11)
    it.server.answer = accepted()
    assert await it.ask(token()) == POD_A


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "a.b",
        "a.!!!.c",
        "a.e30.c",
        "a.WzFd.c",
        "a.bm8=.c",
        "x" * 9000,
        "ä.ö.ü",
        token().replace(".", ""),
    ],
)
async def test_what_is_no_token_costs_no_review(text: str) -> None:
    it = Setup()
    with pytest.raises(TokenError):
        await it.ask(text)
    assert it.server.reviewed == []


async def test_a_claim_of_a_pod_that_does_not_live_costs_no_review() -> None:
    it = Setup()
    with pytest.raises(NotOursError):
        await it.ask(token("uid-unknown"))
    assert it.server.reviewed == []


async def test_a_token_without_an_expiry_is_refused() -> None:
    it = Setup()
    body = base64.urlsafe_b64encode(orjson.dumps({"kubernetes.io": {"pod": {"uid": "uid-a"}}})).decode()
    with pytest.raises(TokenError, match="expires"):
        await it.ask(f"a.{body.rstrip('=')}.c")


async def test_one_review_for_all_who_ask_and_it_survives_the_first_going_away() -> None:
    it = Setup()
    it.server.seconds = 1
    first = asyncio.create_task(it.ask(token()))
    others = [asyncio.create_task(it.ask(token())) for _ in range(5)]
    await it.clock.settle()
    first.cancel()
    await it.clock.advance(2)
    assert await asyncio.gather(*others) == [POD_A] * 5
    assert len(it.server.reviewed) == 1


async def test_a_server_that_cannot_be_asked_is_no_refusal() -> None:
    it = Setup()
    it.server.answer = OSError("no route")
    with pytest.raises(ReviewDelayedError) as caught:
        await it.ask(token())
    assert caught.value.retry_after_s > 0
    it.server.answer = accepted()
    assert await it.ask(token()) == POD_A


async def test_a_flood_of_forged_tokens_for_one_pod_leaves_the_others_alone() -> None:
    it = Setup()
    it.server.answer = {"authenticated": False}
    outcomes = []
    for n in range(1000):
        with pytest.raises((TokenError, ReviewDelayedError)) as caught:
            await it.ask(token("uid-b", salt=str(n)))
        outcomes.append(caught.type)
    assert len(it.server.reviewed) == 5
    assert outcomes.count(ReviewDelayedError) == 995
    it.server.answer = accepted()
    assert await it.ask(token("uid-a")) == POD_A


async def test_reviews_over_all_pods_are_limited_in_time_and_in_number_at_once() -> None:
    it = Setup(burst=3, reviews_per_s=1, in_flight=2)
    it.live = {str(n) for n in range(100)} | {"uid-a"}
    it.server.seconds = 1
    asked = [asyncio.create_task(it.ask(token(str(n)))) for n in range(10)]
    await it.clock.advance(2)
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(isinstance(one, PodIdentity) for one in answers) == 2
    assert all(isinstance(one, PodIdentity | ReviewDelayedError) for one in answers)
    assert it.results.count("limited") == 8


async def test_what_is_remembered_is_bounded_and_holds_no_token() -> None:
    it = Setup(remembered=10, burst=1000)
    it.live = {str(n) for n in range(50)} | {"uid-a"}
    for n in range(50):
        await it.ask(token(str(n)))
    assert len(it.tokens._accepted) == 10
    assert len(it.tokens._pod_buckets) <= 10
    assert not it.tokens._in_flight
    assert all(len(key) == 32 for key in it.tokens._accepted)
