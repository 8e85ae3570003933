"""One turn of training with W&B in some state; how long a big checkpoint takes; how fast rows arrive."""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from crowd.ports import free_port

from carrying import figures
from carrying.figures import Stored, Turn
from carrying.order import LOOK_SECONDS, WINDOW, Order
from carrying.parties import PROJECT, USER, Courier, Store, Trainer, until
from carrying.watching import Processors, Sights
from mlenv import rows
from mlenv.courier import pages

if TYPE_CHECKING:
    from pathlib import Path

    from loops.setup import Size

TINY: Final = {"width": 8, "depth": 1, "batch": 4, "table": 8}
ROW_LOOK_SECONDS: Final = 0.25
QUERY: Final = (
    "query Lines($entity: String, $project: String, $run: String!)"
    " { project(name: $project, entityName: $entity) { run(name: $run) { historyLineCount } } }"
)


class Bench:
    """Everything that runs, and the folder of the turn that is being made."""

    def __init__(self, home: Path, delay: float, rate: float) -> None:
        self._home = home
        self._delay, self._rate = delay, rate
        self._count = 0
        self._stack = ExitStack()
        self.store = Store(home / "server")
        self._stack.callback(self.store.close)
        self.trainer = Trainer(home / "trainer")
        self._stack.callback(self.trainer.close)
        self._refused = f"http://127.0.0.1:{free_port()}"

    def close(self) -> None:
        """End all."""
        self._stack.close()

    # -- what is measured

    def turn(self, state: str, size: Size, every: int, saves: int) -> Turn:
        """Train through so many intervals, each with a checkpoint in its middle, behind half a one."""
        warm = every // 2
        folder = self._folder()
        asked = Order(
            str(folder), size, state != figures.ALONE, every=every, warm=warm, steps=warm + saves * every
        )
        with ExitStack() as stack:
            roots = {"trainer": self.trainer.process.pid, "server": self.store.process.pid}
            if state != figures.ALONE:
                courier = stack.enter_context(self._courier(folder, state))
                roots["courier"] = courier.process.pid
            found = self._watched(asked, folder, roots)
        self.store.heal()
        shutil.rmtree(folder)
        return found

    def _watched(self, asked: Order, folder: Path, roots: dict[str, int]) -> Turn:
        path = self.trainer.begin(asked)
        until((folder / WINDOW).exists, "the timed steps")
        seen, processors = Sights(folder), Processors(roots)
        while not path.exists():
            seen.look()
            processors.look()
            self.trainer.lives()
            time.sleep(LOOK_SECONDS)
        cores, told = processors.cores(), self.trainer.wait(path)
        return Turn(
            told.per_step,
            told.cpu / told.steps,
            seen.seconds,
            cores.get("courier", 0.0),
            cores["server"],
            cores["elsewhere"],
        )

    def calibrate(self, size: Size, seconds: float) -> float:
        """Seconds of a step, after some that warm up."""
        step = 0.05
        for part in (0.1, 1.0):
            folder = self._folder()
            steps = max(2, int(part * seconds / step))
            asked = Order(str(folder), size, tracked=False, every=0, warm=1, steps=1 + steps)
            step = self.trainer.wait(self.trainer.begin(asked)).per_step
            shutil.rmtree(folder)
        return step

    def stores(self, size: Size, count: int) -> Stored:
        """So many checkpoints, each once the one before is stored, with nothing else to do."""
        folder = self._folder()
        seen = Sights(folder)
        with self._courier(folder, figures.HEALTHY):
            self._until_ready(folder)
            for step in range(1, count + 1):
                path = self.trainer.begin(Order(str(folder), size, tracked=True, every=1, warm=0, steps=step))
                until(partial(_is_stored, seen, step), f"checkpoint {step} in the store")
                self.trainer.wait(path)
        shutil.rmtree(folder)
        return Stored(seen.megabytes, seen.seconds)

    def history(self, size: Size, count: int) -> float:
        """Rows a second, of a job that logs much faster than that: from the first row to all in the run."""
        folder = self._folder()
        steps = steps_of(count)
        with self._courier(folder, figures.HEALTHY) as courier:
            self._until_ready(folder)
            order = Order(str(folder), replace(size, **TINY), tracked=True, every=0, warm=0, steps=steps)
            path = self.trainer.begin(order)
            until((folder / WINDOW).exists, "the first row")
            began = time.monotonic()
            until(lambda: self._lines(courier.uid) >= count, f"{count} rows in the run")
            took = time.monotonic() - began
            self.trainer.wait(path)
        shutil.rmtree(folder)
        return count / took

    # -- the parts

    def _folder(self) -> Path:
        self._count += 1
        folder = self._home / f"turn-{self._count}"
        (folder / "checkpoints").mkdir(parents=True)
        return folder

    def _courier(self, folder: Path, state: str) -> Courier:
        if state == figures.SLOW:
            self.store.fault(delay=self._delay, rate=self._rate)
        elif state == figures.FAILING:
            self.store.fault(status=503)
        url = self._refused if state == figures.REFUSED else self.store.url
        return Courier(folder, f"uid-{self._count}", url, self.store.key)

    def _until_ready(self, folder: Path) -> None:
        """Its client is imported, and has asked the server."""
        until(lambda: pages.read(folder / "courier", pages.REPORT, pages.Report), "the courier")

    def _lines(self, run: str) -> int:
        time.sleep(ROW_LOOK_SECONDS)
        variables = {"entity": USER, "project": PROJECT, "run": run}
        found = self.store.query("Lines", QUERY, variables)["project"]
        return int(found["run"]["historyLineCount"]) if found and found["run"] else 0


def _is_stored(seen: Sights, step: int) -> bool:
    return seen.look() >= step


def steps_of(count: int) -> int:
    """Steps of a job that has so many rows: later ones have not each a row."""
    step = 0
    for _ in range(count):
        step = rows.following(step)
    return step
