"""What machines are made of: devices, their memory and peak, network cards. Each fact has a source."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

INSTANCE_COLUMNS: Final = (
    "provider",
    "instance_type",
    "gpus",
    "gpu_model",
    "gpu_memory_mib",
    "vcpus",
    "memory_mib",
    "network_mbps",
    "network_cards",
    "source",
    "source_date",
)
GPU_COLUMNS: Final = ("gpu_model", "peak_bf16_tflops", "source", "source_date")


@dataclass(frozen=True, slots=True)
class Instance:
    """One type of machine; None is not known, and never 0."""

    provider: str
    instance_type: str
    gpus: int
    """Devices of any maker."""
    gpu_model: str
    gpu_memory_mib: int | None
    """Of one device."""
    vcpus: int | None
    memory_mib: int | None
    network_mbps: int | None
    network_cards: int | None
    source: str
    source_date: str


@dataclass(frozen=True, slots=True)
class Gpu:
    """One model of device."""

    gpu_model: str
    peak_bf16_tflops: int
    """Dense, without sparsity: the denominator of MFU."""
    source: str
    source_date: str


@dataclass(frozen=True)
class Hardware:
    """The tables, by name."""

    instances: Mapping[tuple[str, str], Instance]
    """By provider and instance type."""
    gpus: Mapping[str, Gpu]
    """By model; what is not here has no peak, and so no MFU."""

    def instance(self, provider: str, instance_type: str) -> Instance | None:
        """One type of machine, if it is known."""
        return self.instances.get((provider, instance_type))

    def peak_bf16_tflops(self, provider: str, instance_type: str) -> int | None:
        """Of all devices of a machine together; None when a part of it is not known."""
        instance = self.instance(provider, instance_type)
        gpu = self.gpus.get(instance.gpu_model) if instance else None
        return instance.gpus * gpu.peak_bf16_tflops if instance and gpu else None


NOTHING: Final = Hardware({}, {})


def parse_hardware(instances: str, gpus: str) -> Hardware:
    """The tables from their CSV text.

    Raises:
        ValueError: a row that cannot be read, or has no source, with its number.
    """
    found = [
        Instance(
            provider=row["provider"],
            instance_type=row["instance_type"],
            gpus=int(row["gpus"]),
            gpu_model=row["gpu_model"],
            gpu_memory_mib=_number(row["gpu_memory_mib"]),
            vcpus=_number(row["vcpus"]),
            memory_mib=_number(row["memory_mib"]),
            network_mbps=_number(row["network_mbps"]),
            network_cards=_number(row["network_cards"]),
            source=row["source"],
            source_date=row["source_date"],
        )
        for row in _rows(instances, INSTANCE_COLUMNS)
    ]
    peaks = [
        Gpu(row["gpu_model"], int(row["peak_bf16_tflops"]), row["source"], row["source_date"])
        for row in _rows(gpus, GPU_COLUMNS)
    ]
    return Hardware(
        {(one.provider, one.instance_type): one for one in found}, {one.gpu_model: one for one in peaks}
    )


def _rows(text: str, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    reader = csv.DictReader(io.StringIO(text))
    if tuple(reader.fieldnames or ()) != columns:
        raise ValueError(f"the columns are {reader.fieldnames}, and should be {list(columns)}")
    for row in reader:
        if None in row or None in row.values():
            raise ValueError(f"line {reader.line_num} has not as many cells as there are columns")
        if not row["source"] or not row["source_date"]:
            raise ValueError(f"line {reader.line_num} has no source or no date: say where it is from")
        yield row


def _number(text: str) -> int | None:
    return int(text) if text else None
