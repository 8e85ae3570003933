"""What a job would cost, from the nodes, environments and prices of now: no question to the ledger."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import orjson
from pydantic import ValidationError

from mlenv_api import names
from mlenv_api.trainingjob import TrainingJobSpec
from mlenv_operator.adapters.pricefiles import shipped_hardware
from mlenv_operator.core.quantity import quantity
from mlenv_operator.cost.estimate import estimate, lasts
from mlenv_operator.cost.facts import SECOND
from mlenv_operator.cost.money import format_time, parse_dollars
from mlenv_operator.cost.shares import GPU_DOMINANT
from mlenv_operator.cost.wishes import wish_of
from mlenv_operator.ledger.errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlenv_api.podtemplate import EnvironmentSpec
    from mlenv_operator.adapters.caches import Caches
    from mlenv_operator.cost.estimate import Estimate, Option, Wish
    from mlenv_operator.cost.facts import Micros, Node
    from mlenv_operator.cost.prices import PriceBook
    from mlenv_operator.cost.shares import Policy

MAX_SECONDS: Final = 315_360_000
_KNOWN: Final = ("job", "seconds", "format")


class EstimateError(LedgerError):
    """The question is not understood; the message says what to write instead."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A job as it would be submitted, and for how long."""

    spec: TrainingJobSpec
    seconds: int | None


class Estimates:
    """Answers what a job would cost."""

    def __init__(
        self, caches: Caches, prices: Callable[[], PriceBook], shares: Policy = GPU_DOMINANT
    ) -> None:
        self._caches = caches
        self._prices = prices
        self._shares = shares

    def prepare(self, namespace: str, pairs: Sequence[tuple[str, str]], now: Micros) -> Callable[[], bytes]:
        """Read what may change meanwhile; the rest is done by calling what this returns, in any thread."""
        asked = parse(pairs)
        environment = self._environment(namespace, asked.spec)
        nodes = [view.machine for view in self._caches.nodes.views() if view.machine is not None]
        return lambda: self._answer(namespace, asked, environment, nodes, now)

    def _environment(self, namespace: str, spec: TrainingJobSpec) -> EnvironmentSpec | None:
        named = spec.environment_ref
        if named is None:
            return None
        cluster = named.kind == names.CLUSTER_ENVIRONMENT
        cache = self._caches.cluster_environments if cluster else self._caches.environments
        found = cache.get("" if cluster else namespace, named.name)
        if found is None or found.spec is None:
            why = "is not there" if found is None else "cannot be read"
            raise EstimateError(
                f"The {named.kind} {named.name!r} {why}, so nobody knows what pods would hold."
            )
        return found.spec

    def _answer(
        self,
        namespace: str,
        asked: Asked,
        environment: EnvironmentSpec | None,
        nodes: Sequence[Node],
        now: Micros,
    ) -> bytes:
        wish = replace(wish_of(asked.spec, environment), shares=self._shares)
        found = estimate(wish, nodes, self._prices(), shipped_hardware(), now)
        return orjson.dumps(document(namespace, asked, wish, found, now))


def parse(pairs: Sequence[tuple[str, str]]) -> Asked:
    """The question that the parameters ask; raises EstimateError."""
    said = dict(pairs)
    if len(said) != len(pairs) or not said.keys() <= set(_KNOWN):
        raise EstimateError(f"There are the parameters {', '.join(_KNOWN)}, each once.")
    if said.get("format", "json") != "json":
        raise EstimateError("format: an estimate is told as json alone.")
    return Asked(_spec(said.get("job", "")), _seconds(said.get("seconds")))


def _seconds(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal() or not 0 < int(text[:12]) <= MAX_SECONDS:
        raise EstimateError(f"seconds must be a whole number from 1 to {MAX_SECONDS}, not {text[:20]!r}.")
    return int(text)


def _spec(text: str) -> TrainingJobSpec:
    if len(text) > names.MAX_ESTIMATED_JOB:
        most = f"at most {names.MAX_ESTIMATED_JOB:,} characters"
        raise EstimateError(f"job: {most}; only what decides on machines is needed.")
    try:
        told = orjson.loads(text)
        trainer = {"image": "any", **told.get("trainer", {})}  # which image it is costs nothing
        spec = TrainingJobSpec.model_validate({**told, "trainer": trainer})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise EstimateError(f"job: spec.{where}: {first['msg']}.") from None
    except (ValueError, AttributeError, TypeError):
        raise EstimateError("job must be the spec of a TrainingJob, as JSON.") from None
    resources = spec.trainer.resources_per_node
    for name, value in {**resources.limits, **resources.requests}.items() if resources else ():
        if quantity(value) is None:
            raise EstimateError(f"job: {value!r} of {name} is no quantity, as 500m or 4Gi.")
    return spec


def document(namespace: str, asked: Asked, wish: Wish, found: Estimate, now: Micros) -> dict[str, Any]:
    """The answer; money is text, in nanodollars, and null where it is unknown."""
    return {
        "kind": "Estimate",
        "version": "v1",
        "namespace": namespace,
        "asOf": format_time(now),
        "currency": "USD",
        "asks": {
            "pods": wish.pods,
            "gpus": wish.held.gpus,
            "cpuMilli": wish.held.cpu_milli,
            "memoryBytes": wish.held.memory_bytes,
        },
        "assumed": None if found.assumed is None else found.options.index(found.assumed),
        "why": found.why,
        "notes": list(found.notes),
        "options": [_option(one) for one in found.options],
        "durations": [
            _duration(found.assumed, what, seconds) for what, seconds in _durations(asked) if seconds
        ],
        "limit": _limit(found.assumed, asked.spec),
    }


def _option(one: Option) -> dict[str, Any]:
    machine, price = one.machine, one.price
    return {
        "provider": machine.provider,
        "region": machine.region,
        "instanceType": machine.instance_type,
        "capacityType": machine.capacity_type,
        "reservation": machine.reservation,
        "gpuModel": machine.gpu_model,
        "gpus": machine.gpus,
        "inCluster": one.in_cluster,
        "share": str(one.share),
        "nanosPerHour": _text(one.rate),
        "listNanosPerHour": _text(one.list_rate),
        "price": None if price is None else {"id": price.id, "name": price.name, "source": price.source},
    }


def _durations(asked: Asked) -> list[tuple[str, int | None]]:
    return [("asked", asked.seconds), ("activeDeadlineSeconds", asked.spec.active_deadline_seconds)]


def _duration(assumed: Option | None, what: str, seconds: int) -> dict[str, Any]:
    cost = None if assumed is None else assumed.cost(seconds * SECOND)
    return {"what": what, "seconds": seconds, "costNanos": _text(cost)}


def _limit(assumed: Option | None, spec: TrainingJobSpec) -> dict[str, Any] | None:
    if spec.cost is None:
        return None
    try:
        limit = parse_dollars(spec.cost.limit)
    except ValueError as error:
        raise EstimateError(f"job: spec.cost.limit: {error}.") from None
    rate = None if assumed is None else assumed.rate
    return {
        "nanos": str(limit),
        "onExceeded": spec.cost.on_exceeded.value,
        "reachedAfterSeconds": None if rate is None else lasts(rate, limit),
    }


def _text(nanos: int | None) -> str | None:
    return None if nanos is None else str(nanos)
