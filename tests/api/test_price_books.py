"""PriceBooks at a real API server: what it rejects, the biggest one, and the operator's word on each."""

from __future__ import annotations

import asyncio
import random
import secrets
from typing import TYPE_CHECKING, Any

import pytest
from informed import informed
from operator_process import operator_process

from mlenv_api import names
from mlenv_api.pricebook import MAX_PRICES
from mlenv_operator.adapters.metrics import Metrics
from mlenv_operator.adapters.pricebooks import Books, project_book
from mlenv_operator.cost.facts import Node
from mlenv_operator.cost.money import parse_time
from mlenv_operator.kube.client import Client
from mlenv_operator.kube.resources import PRICE_BOOKS
from mlenv_operator.kube.transport import connect
from mlenv_operator.runtime.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from .conftest import Kubectl

pytestmark = [pytest.mark.api, pytest.mark.timeout(3600)]  # the first one may build the server
Raw = dict[str, Any]
DEADLINE_S = 300.0
NODE = Node("n", "n", "aws", "us-east-1", "us-east-1a", "p5.48xlarge", "on-demand", gpus=8)
BEGIN = "2026-11-01T00:00:00Z"


def price(paid: Any = "41.28", match: Raw | None = None, **changes: Any) -> Raw:
    wanted = {"provider": "aws", "region": "us-east-1", "instanceType": "p5.48xlarge"} | (match or {})
    return {"match": wanted, "perHour": paid, "from": BEGIN} | changes


def book(*prices: Raw, name: str = "bad", **spec: Any) -> Raw:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.PRICE_BOOK,
        "metadata": {"name": name},
        "spec": {"source": "our contract", "asOf": BEGIN, "prices": list(prices)} | spec,
    }


REJECTED = {
    "nothing": (book(price("0.00")), "spec.prices[0].perHour: Invalid value: a price is more than 0"),
    "no list price": (
        book(price(listPerHour="0")),
        "spec.prices[0].listPerHour: Invalid value",
    ),
    "a number": (book(price(41.28)), "spec.prices[0].perHour: Invalid value"),
    "not a number": (book(price("NaN")), "spec.prices[0].perHour in body should match"),
    "blank": (book(price("")), "spec.prices[0].perHour in body should match"),
    "too fine": (book(price("0.0000000001")), "spec.prices[0].perHour in body should match"),
    "an end before the beginning": (
        book(price(to="2026-10-31T23:59:59Z")),
        "spec.prices[0].to: Invalid value: a price ends after it begins",
    ),
    "no time": (book(price(to="soon")), "spec.prices[0].to in body must be of type date-time"),
    "a zone alone": (
        book(price(match={"region": "", "zone": "us-east-1a"})),
        "spec.prices[0].match.region: Required value: a zone needs its region: set region",
    ),
    "a block without a name": (
        book(price(match={"capacityType": "capacity-block"})),
        "spec.prices[0].match.reservation: Required value: the price of a capacity block was fixed",
    ),
    "a made-up capacity type": (book(price(match={"capacityType": "free"})), "Unsupported value"),
    "no source": (book(price(), source=""), "spec.source in body should be at least 1 chars long"),
    "euros": (book(price(), currency="EUR"), "spec.currency: Unsupported value"),
    "too many": (book(*[price()] * (MAX_PRICES + 1)), "spec.prices: Too many"),
}


@pytest.mark.parametrize("mistake", REJECTED)
def test_a_mistake_is_rejected_with_a_sentence(kubectl: Kubectl, mistake: str) -> None:
    body, sentence = REJECTED[mistake]
    assert sentence in kubectl.error("create", "-f", "-", stdin=body)


@pytest.fixture
def name(kubectl: Kubectl) -> Iterator[str]:
    made = f"book-{secrets.token_hex(4)}"
    yield made
    kubectl.run("delete", names.PRICE_BOOK, made, "--wait=false")


def test_the_biggest_book_is_within_the_limits_of_its_rules(kubectl: Kubectl, name: str) -> None:
    types = [
        {"instanceType": f"t-{number}", "zone": "z" * 128, "region": "r"} for number in range(MAX_PRICES)
    ]
    body = book(
        *(price("999999999.999999999", match=one, to="2027-01-01T00:00:00Z") for one in types), name=name
    )
    kubectl.ok("create", "-f", "-", stdin=body)


@pytest.fixture
async def books(kubectl: Kubectl) -> AsyncIterator[Books]:
    """The operator's part that reads PriceBooks and answers, as app.py puts it together."""
    async with connect(user_agent="mlenv-operator/test", kubeconfig=str(kubectl.kubeconfig)) as transport:
        client = Client(transport, lambda: 30.0)
        clock, rng = SystemClock(), random.Random(1)
        made = Books(client, clock, rng, Metrics())
        async with informed(client, PRICE_BOOKS, project_book, made):
            yield made


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  (what is waited for happens in another process)
            await asyncio.sleep(0.02)


async def test_a_book_from_birth_to_death(kubectl: Kubectl, books: Books, name: str) -> None:
    def paid() -> int | None:
        row = books.prices.price(NODE, parse_time("2026-11-25"))
        return None if row is None else row.effective_nanos_per_hour

    async def run(*words: str, stdin: Raw | None = None) -> str:
        return await asyncio.to_thread(kubectl.ok, *words, stdin=stdin)

    await run("apply", "--server-side", "-f", "-", stdin=book(price(), name=name))
    await run("wait", f"pricebook/{name}", "--for=condition=Ready", "--timeout=250s")
    assert paid() == 41_280_000_000
    await run("apply", "--server-side", "-f", "-", stdin=book(price("700"), name=name))
    await run("wait", f"pricebook/{name}", "--for=condition=Stalled", "--timeout=250s")
    assert paid() == 41_280_000_000
    told = await asyncio.to_thread(kubectl.json, "get", "pricebook", name)
    assert (told["status"]["observedGeneration"], told["status"]["acceptedGeneration"]) == (2, 1)
    assert "700.0 is a catalog's word for no price" in told["status"]["conditions"][1]["message"]
    line = (await run("get", "pbook", name, "--no-headers")).split()
    assert line[:3] == [name, "False", "1"]
    await run("delete", "pricebook", name)
    await until(lambda: paid() == 55_040_000_000)


@pytest.fixture
def operator(kubectl: Kubectl, tmp_path: Path) -> Iterator[Path]:
    """The whole operator, as a process; its log."""
    home, log = f"op-{secrets.token_hex(4)}", tmp_path / "operator.log"
    kubectl.ok("create", "namespace", home)
    with operator_process(kubectl.kubeconfig, home, log):
        yield log
    kubectl.run("delete", "namespace", home, "--wait=false")


def test_the_operator_answers_for_every_book_that_is_there_when_it_starts(
    kubectl: Kubectl, name: str, operator: Path
) -> None:
    other = f"{name}-refused"
    kubectl.ok("create", "-f", "-", stdin=book(price(), name=name))
    kubectl.ok("create", "-f", "-", stdin=book(price("700"), name=other))
    for one, condition in ((name, "Ready"), (other, "Stalled")):
        done = kubectl.run("wait", f"pricebook/{one}", f"--for=condition={condition}", "--timeout=250s")
        assert done.returncode == 0, done.stderr + operator.read_text()
    kubectl.ok("delete", "pricebook", other)
