"""A real Prometheus on this machine, in a temporary folder, and its promtool."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.parse
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from crowd.ports import free_port

from mlenv_local import needs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT = Path(__file__).parents[2]
RULES = ROOT / "helm" / "mlenv" / "files" / "rules.yaml"
DEADLINE_S = 300.0


def program(name: str) -> str:
    """`prometheus` or `promtool`; fails with a sentence when there is none."""
    if (found := needs.prometheus()) is None:
        raise RuntimeError(
            f"Prometheus is not here: `./run test --tier prometheus --yes` unpacks the Debian package "
            f"{needs.PROMETHEUS_PACKAGE} into the cache."
        )
    return str(found / name)


def promtool(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run promtool."""
    return subprocess.run(
        [program("promtool"), *arguments], input=stdin, capture_output=True, text=True, check=False
    )


@dataclass
class Prometheus:
    """One that runs."""

    url: str

    def query(self, expression: str) -> dict[tuple[str, ...], float]:
        """An instant vector, by the values of its labels in the order of their names."""
        return {
            tuple(value for name, value in sorted(one["metric"].items()) if name != "__name__"): float(
                one["value"][1]
            )
            for one in self._get("/api/v1/query", query=expression)["result"]
        }

    def wait(self, expression: str, wanted: Callable[[dict[tuple[str, ...], float]], bool]) -> None:
        """Until the answer is as wanted."""
        deadline = time.monotonic() + DEADLINE_S
        while not wanted(last := self.query(expression)):
            assert time.monotonic() < deadline, f"{expression} stays {last}"
            time.sleep(0.1)

    def _get(self, path: str, **parameters: str) -> Any:
        address = f"{self.url}{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(address, timeout=60) as answer:
            body = json.load(answer)
        assert body["status"] == "success", body
        return body["data"]


@contextmanager
def prometheus(folder: Path, ports: Sequence[int]) -> Iterator[Prometheus]:
    """Scrapes these ports of this machine four times a second."""
    config = {
        "global": {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "250ms"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {
                "job_name": "operator",
                "scrape_interval": "250ms",
                "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}],
            }
        ],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    url = f"127.0.0.1:{free_port()}"
    argv = [
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={url}",
    ]
    with (folder / "prometheus.log").open("w") as log, subprocess.Popen(argv, stdout=log, stderr=log) as one:
        try:
            _wait_ready(f"http://{url}/-/ready", one)
            yield Prometheus(f"http://{url}")
        finally:
            one.terminate()


def _wait_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10):
                return
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("Prometheus is not ready: see prometheus.log") from error
            time.sleep(0.1)
