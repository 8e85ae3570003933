"""Gangs of launchers that run `gang_program/train.py`: what they wrote down, and one that is led by hand."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from datasets import write
from rig import STOP, until, world

from mlenv.data import merge
from mlenv_api.protocol import Beat, LauncherPhase

if TYPE_CHECKING:
    from rig import Rig, Server

SCRIPT: Final = Path(__file__).parent / "gang_program" / "train.py"
STEPS: Final = 24
BATCH: Final = 24
ROWS: Final = 300


@dataclass(frozen=True)
class Step:
    """What all ranks together did in one step."""

    ids: tuple[int, ...]
    weights: str
    loss: float
    """Of all rows."""


def rows(folder: Path) -> Path:
    """The data, written once."""
    if not (folder / "set").exists():
        for number in range(3):
            write(folder / "set" / f"{number}.parquet", 100 * number, 100)
    return folder / "set"


def made(out: Path, attempt: int, step: int) -> bool:
    """Whether all ranks of an attempt have made a step: cheap, to be asked often."""
    files = list(out.glob(f"steps-{attempt}-*"))
    return bool(files) and all(f"[{step}, " in file.read_text() for file in files)


def steps(out: Path, attempt: int) -> dict[int, Step]:
    """The steps that all ranks of an attempt made. Their weights must be equal."""
    files = sorted(out.glob(f"steps-{attempt}-*"), key=lambda one: int(one.name.rpartition("-")[2]))
    logs = [{line[0]: line[1:] for line in _lines(file)} for file in files]
    common = set.intersection(*(set(log) for log in logs)) if logs else set()
    return {number: _together(number, [log[number] for log in logs]) for number in sorted(common)}


def _lines(file: Path) -> list[list[Any]]:
    # A rank that was killed may have left half a line.
    return [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _together(number: int, parts: list[list[Any]]) -> Step:
    weights = {one[1] for one in parts}
    assert len(weights) == 1, f"ranks differ after step {number}: {weights}"
    ids = tuple(one for part in parts for one in part[0])
    return Step(ids, weights.pop(), sum(part[2] * len(part[0]) for part in parts) / len(ids))


def ends(out: Path, ranks: int) -> list[dict[str, Any]]:
    """What each rank of the last attempt ended with."""
    return [json.loads((out / f"end-{rank}").read_text()) for rank in range(ranks)]


def witness(found: list[dict[str, Any]]) -> int:
    """Of all samples that were consumed."""
    return int(merge([end["data"] for end in found])["witness"]["sealed"])


class Gang:
    """Two launchers of one job, attempt after attempt, told by the test what an operator would say."""

    def __init__(self, rig: Rig, server: Server, name: str = "p", *, procs: int = 1, **env: str) -> None:
        self.rig, self.server, self.name, self.procs = rig, server, name, procs
        self.attempt = 0
        self.more: dict[str, Any] = {}
        """What the operator says beside the world."""
        wanted = env.pop("STEPS", str(STEPS))
        self.launchers = [
            rig.launch(
                str(SCRIPT),
                str(self.out),
                str(rows(rig.folder)),
                wanted,
                urls=server.url,
                pod=f"{name}{i}",
                index=i,
                nodes=2,
                procs=procs,
                way="fork",
                **env,
            )
            for i in range(2)
        ]

    def start(self, nodes: int = 2) -> None:
        """The next attempt, in a world of so many pods."""
        self.attempt += 1
        pods = [f"{self.name}{i}" for i in range(nodes)]
        now = self.attempt

        def waits(beat: Beat) -> bool:
            return beat.attempt == now and beat.phase is LauncherPhase.WAITING

        for pod in pods:
            self.server.say(pod, now, stored_evidence=9, **self.more)
            self.server.wait(pod, waits, f"attempt {now}")
        port = self.server.wait(pods[0], lambda b: waits(b) and b.port is not None, "a port").port
        for i, pod in enumerate(pods):
            shape = world(port, nodes=nodes, rank=i, procs=self.procs)
            self.server.say(pod, now, world=shape, stored_evidence=9, **self.more)

    def until_failed(self, pod: int = 1) -> None:
        """Wait until the launcher of `pod` told that a rank failed."""
        now = self.attempt
        self.server.wait(
            f"{self.name}{pod}", lambda b: b.attempt == now and b.phase is LauncherPhase.FAILED, "the failure"
        )

    def until_done(self, nodes: int = 2) -> list[dict[str, Any]]:
        """Wait for success; what each rank ended with."""
        now = self.attempt

        def done(beat: Beat) -> bool:
            return beat.attempt == now and beat.phase is LauncherPhase.SUCCEEDED

        for i in range(nodes):
            self.server.wait(f"{self.name}{i}", done, "success")
            self.server.say(f"{self.name}{i}", now, order=STOP)
        return ends(self.out, nodes * self.procs)

    @property
    def out(self) -> Path:
        """What its ranks write down."""
        return self.rig.folder / "out" / self.name

    def text(self, pod: int = 0) -> str:
        """All that a pod has printed."""
        return self.launchers[pod].text()

    def went_on_from(self) -> int:
        """The step that this attempt says it goes on from."""
        found = re.search(rf"attempt {self.attempt}, .*goes on from step (\d+)", self.text())
        assert found, self.text()
        return int(found[1])

    def folder(self, pod: int) -> Path:
        """A pod's own checkpoints."""
        return self.launchers[pod].run_dir / "checkpoints"

    def sealed(self, pod: int) -> list[Path]:
        """Those that have a seal."""
        return sorted(one.parent for one in self.folder(pod).glob("step-*/SEAL.json"))

    def ids(self, attempt: int, *, upto: int = STEPS) -> list[list[int]]:
        """The global batches of an attempt, up to a step."""
        return [list(one.ids) for number, one in steps(self.out, attempt).items() if number <= upto]


def said(gang: Gang, text: str, pod: int = 0) -> None:
    """Wait until a pod has printed this."""
    until(lambda: text in gang.text(pod), text)
