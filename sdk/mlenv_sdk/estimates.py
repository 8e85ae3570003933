"""What a job would cost: the question as the operator reads it, and its answer as values.

Money is in whole nanodollars, and None where it is unknown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mlenv_api.names import API_VERSION, MAX_ESTIMATED_JOB, TRAINING_JOB
from mlenv_sdk.errors import InvalidManifest

if TYPE_CHECKING:
    from mlenv_sdk.resources import TrainingJob

_SPEC: Final = ("environmentRef", "launcher", "tracking", "activeDeadlineSeconds", "cost")
_TRAINER: Final = ("numNodes", "resourcesPerNode")
_POD: Final = ("nodeSelector", "affinity")


@dataclass(frozen=True, slots=True)
class Machine:
    """Machines of one kind that the job fits."""

    provider: str
    region: str
    instance_type: str
    capacity_type: str
    reservation: str
    in_cluster: bool
    """Whether the cluster has such a node now."""
    share: str
    """Of one machine, held by one pod, as 1/2."""
    rate: int | None
    """Nanodollars an hour, of all pods together."""
    list_rate: int | None
    """The same on demand."""


@dataclass(frozen=True, slots=True)
class Duration:
    """What a time costs."""

    what: str
    """`asked`, or the field that says so."""
    seconds: int
    cost: int | None


@dataclass(frozen=True, slots=True)
class Limit:
    """What spec.cost allows."""

    amount: int
    on_exceeded: str
    reached_after: int | None
    """Seconds."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a job would cost at the prices of now, and on what."""

    pods: int
    gpus: int
    """Of each pod."""
    options: tuple[Machine, ...]
    """The cheapest first, those without a known price last."""
    assumed: Machine | None
    why: str
    """Why this one is assumed, or why nothing is known."""
    durations: tuple[Duration, ...]
    limit: Limit | None
    notes: tuple[str, ...]
    as_of: str
    raw: dict[str, Any]

    @property
    def rate(self) -> int | None:
        """Nanodollars an hour on the machines that are assumed."""
        return None if self.assumed is None else self.assumed.rate


def asked(job: TrainingJob | Mapping[str, Any], seconds: int | None) -> tuple[str, list[tuple[str, str]]]:
    """The job's own namespace, if it says one, and the question: only what decides on machines and bounds."""
    body = job if isinstance(job, Mapping) else job.manifest()
    metadata, spec = body.get("metadata") or {}, body.get("spec")
    if (body.get("kind", TRAINING_JOB), body.get("apiVersion", API_VERSION)) != (TRAINING_JOB, API_VERSION):
        raise InvalidManifest(f"This is no TrainingJob of {API_VERSION} but a {body.get('kind', '?')}.")
    if not isinstance(spec, Mapping) or not isinstance(metadata, Mapping):
        raise InvalidManifest('This is no TrainingJob: "spec" is missing.')
    pod = _part(_part(spec, "podTemplateOverrides"), "spec")
    told = {
        **_only(spec, _SPEC),
        "trainer": _only(_part(spec, "trainer"), _TRAINER),
        "podTemplateOverrides": {"spec": _only(pod, _POD)},
    }
    text = json.dumps(told, separators=(",", ":"), default=str)
    if len(text) > MAX_ESTIMATED_JOB:
        raise InvalidManifest(
            f"Resources, selectors and tracking of the job have more than {MAX_ESTIMATED_JOB:,} characters."
        )
    more = [] if seconds is None else [("seconds", str(seconds))]
    return str(metadata.get("namespace") or ""), [("job", text), *more]


def _part(of: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = of.get(name) or {}
    if not isinstance(found, Mapping):
        raise InvalidManifest(f'In this TrainingJob "{name}" is no object.')
    return found


def _only(of: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: of[name] for name in names if of.get(name) is not None}


def read_estimate(told: dict[str, Any]) -> Estimate:
    """From JSON."""
    options = tuple(map(_machine, told["options"]))
    asks, limit, place = told["asks"], told["limit"], told["assumed"]
    return Estimate(
        pods=asks["pods"],
        gpus=asks["gpus"],
        options=options,
        assumed=None if place is None else options[place],
        why=told["why"],
        durations=tuple(
            Duration(one["what"], one["seconds"], _int(one["costNanos"])) for one in told["durations"]
        ),
        limit=limit and Limit(int(limit["nanos"]), limit["onExceeded"], limit["reachedAfterSeconds"]),
        notes=tuple(told["notes"]),
        as_of=told["asOf"],
        raw=told,
    )


def _machine(told: dict[str, Any]) -> Machine:
    return Machine(
        provider=told["provider"],
        region=told["region"],
        instance_type=told["instanceType"],
        capacity_type=told["capacityType"],
        reservation=told["reservation"],
        in_cluster=told["inCluster"],
        share=told["share"],
        rate=_int(told["nanosPerHour"]),
        list_rate=_int(told["listNanosPerHour"]),
    )


def _int(text: str | None) -> int | None:
    return None if text is None else int(text)
