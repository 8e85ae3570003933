"""The operator itself, with a registry that holds as many samples as ten thousand jobs would."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import uvloop
from prometheus_client.core import GaugeMetricFamily

from mlenv_operator import app
from mlenv_operator.adapters import logs
from mlenv_operator.adapters.metrics import Metrics
from mlenv_operator.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator


class Many:
    """So many samples of ballast."""

    def __init__(self, samples: int) -> None:
        self._samples = samples

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """All of them."""
        family = GaugeMetricFamily("bench_samples", "Ballast.", labels=["job", "kind"])
        for number in range(self._samples):
            family.add_metric([f"job-{number // 10}", f"kind-{number % 10}"], number)
        yield family


def main() -> None:
    """Run it, as `python -m mlenv_operator run` would."""
    metrics = Metrics()
    metrics.registry.register(Many(int(sys.argv[1])))
    logs.configure("WARNING", as_json=False)
    uvloop.run(app.run(Settings.from_environment(os.environ), metrics))


if __name__ == "__main__":
    main()
