"""What a pod asks for, and a node has: devices, processors, memory."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mlenv_operator.core.quantity import milli, quantity

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DEVICES: Final = frozenset(
    {
        "nvidia.com/gpu",
        "nvidia.com/gpu.shared",
        "amd.com/gpu",
        "gpu.intel.com/i915",
        "gpu.intel.com/xe",
        "habana.ai/gaudi",
        "aws.amazon.com/neuron",
        "google.com/tpu",
    }
)
"""Resources that count as devices, one each."""
MIG: Final = "nvidia.com/mig-"
"""Slices of a device are devices of their own, whatever their size."""


class Held(NamedTuple):
    """Devices, thousandths of processors, and bytes."""

    gpus: int = 0
    cpu_milli: int = 0
    memory_bytes: int = 0

    def plus(self, other: Held) -> Held:
        """Both together."""
        return Held(*(mine + more for mine, more in zip(self, other, strict=True)))

    def most(self, other: Held) -> Held:
        """The larger of each."""
        return Held(*(max(pair) for pair in zip(self, other, strict=True)))


NOTHING: Final = Held()


def of_list(resources: Mapping[str, Any] | None) -> Held:
    """What a list of resources by name holds."""
    return _of(tuple(sorted((name, str(value)) for name, value in (resources or {}).items())))


@lru_cache(maxsize=4096)
def _of(resources: tuple[tuple[str, str], ...]) -> Held:
    """Cached: pods of a gang are alike, and share the very same value."""
    found = dict(resources)
    gpus = sum(quantity(value) or 0 for name, value in resources if is_device(name))
    return Held(gpus, milli(found.get("cpu", "0")) or 0, quantity(found.get("memory", "0")) or 0)


def is_device(name: str) -> bool:
    """Whether a resource of this name is a device."""
    return name in DEVICES or name.startswith(MIG)


def of_pod(spec: Mapping[str, Any]) -> Held:
    """What the scheduler sets aside for a pod: requests, or where there are none limits.

    The sum over containers and sidecars, or what an init container needs beside the sidecars before it.
    """
    running, most = NOTHING, NOTHING
    for container in spec.get("initContainers") or ():
        asked = _asked(container)
        most = most.most(running.plus(asked))
        if container.get("restartPolicy") == "Always":
            running = running.plus(asked)
    total = _sum(running, map(_asked, spec.get("containers") or ())).most(most)
    whole = _asked(spec) if spec.get("resources") else NOTHING
    total = Held(total.gpus, whole.cpu_milli or total.cpu_milli, whole.memory_bytes or total.memory_bytes)
    return _shared(total.plus(of_list(spec.get("overhead"))))


@lru_cache(maxsize=4096)
def _shared(held: Held) -> Held:
    return held


def _sum(first: Held, others: Iterable[Held]) -> Held:
    for one in others:
        first = first.plus(one)
    return first


def _asked(container: Mapping[str, Any]) -> Held:
    resources = container.get("resources") or {}
    return of_list({**(resources.get("limits") or {}), **(resources.get("requests") or {})})
