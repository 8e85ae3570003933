"""Which part of a node a pod holds: a weight against the node's whole, both exact integers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mlenv_operator.cost.facts import Node, Pod

MILLI = 1000
GIB = 1 << 30
_WEIGHTS = re.compile(r"weights=(\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)")


class Policy(Protocol):
    """How held things become a weight. Weights of the pods of a node compare with the node's whole."""

    def whole(self, node: Node) -> int:
        """The weight of all that the node has; at least 1."""

    def weight(self, node: Node, pod: Pod) -> int:
        """The weight of what the pod holds; may exceed the whole, when the facts say so."""


@dataclass(frozen=True, slots=True)
class GpuDominant:
    """Devices decide, the rest rides along. Without: the larger of the shares of processors and memory."""

    def whole(self, node: Node) -> int:
        """Devices; or processors times memory, so that both shares have one denominator."""
        return node.gpus or max(node.cpu_milli, 1) * max(node.memory_bytes, 1)

    def weight(self, node: Node, pod: Pod) -> int:
        """Devices; or the larger share. What the node is not known to have counts for nothing."""
        if node.gpus:
            return pod.gpus
        cpu = pod.cpu_milli * max(node.memory_bytes, 1) if node.cpu_milli else 0
        memory = pod.memory_bytes * max(node.cpu_milli, 1) if node.memory_bytes else 0
        return max(cpu, memory)


@dataclass(frozen=True, slots=True)
class Weights:
    """So much for each device, processor and GiB, as clouds split the bill of a node."""

    gpu: int
    cpu: int
    gib: int

    def whole(self, node: Node) -> int:
        """The weight of the node's capacity."""
        return max(self._sum(node.gpus, node.cpu_milli, node.memory_bytes), 1)

    def weight(self, node: Node, pod: Pod) -> int:
        """The weight of what the pod holds. What the node is not known to have weighs nothing."""
        return self._sum(
            pod.gpus if node.gpus else 0,
            pod.cpu_milli if node.cpu_milli else 0,
            pod.memory_bytes if node.memory_bytes else 0,
        )

    def _sum(self, gpus: int, cpu_milli: int, memory_bytes: int) -> int:
        """In units of a thousandth of a processor times a byte, so that nothing is rounded."""
        processors = self.cpu * cpu_milli * GIB
        return self.gpu * gpus * MILLI * GIB + processors + self.gib * memory_bytes * MILLI


GPU_DOMINANT = GpuDominant()
AWS_SPLIT = Weights(90, 9, 1)
"""9 / 0.9 / 0.1 per device, processor and GiB: AWS Split Cost Allocation Data."""


def parse_policy(text: str) -> Policy:
    """The policy of this name: `gpu-dominant`, or `weights=9/0.9/0.1` for device, processor and GiB."""
    if text == "gpu-dominant":
        return GPU_DOMINANT
    found = _WEIGHTS.fullmatch(text)
    if found is None or not any(Fraction(one) for one in found.groups()):
        raise ValueError(f"No policy of shares: {text!r}. Use gpu-dominant, or weights=GPU/CPU/GIB.")
    gpu, cpu, gib = (Fraction(one) for one in found.groups())
    scale = lcm(gpu.denominator, cpu.denominator, gib.denominator)
    return Weights(int(gpu * scale), int(cpu * scale), int(gib * scale))
