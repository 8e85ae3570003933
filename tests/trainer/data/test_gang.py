"""Ranks as they really are: a world of processes that dies, and a smaller one that goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from datasets import ids, steps_of, world_of, write

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import json, os, sys
from pathlib import Path
import torch.distributed as dist
import mlenv as ml

folder, out, steps = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
job = ml.init()
data = ml.Stream(folder, 24, lanes=6, tail="carry")
if (out / "state").exists():
    data.load_state_dict(json.loads((out / "state").read_text()))
log = (out / f"{job.rank}").open("a")
with ml.Session(job, data=data) as run:
    for batch in run.steps(steps):
        print(json.dumps(batch.ids.tolist()), file=log, flush=True)
        run.commit()
        states = [None] * job.world_size
        if job.world_size > 1:
            dist.all_gather_object(states, data.state_dict())
        else:
            states = [data.state_dict()]
        if job.main:
            (out / "state").write_text(json.dumps(ml.data.merge(states)))
        if os.environ.get("DIE") == str(run.step):
            if job.world_size > 1:
                dist.barrier()
            os._exit(9)
"""


def launch(script: Path, *args: object, ranks: int, **env: str) -> int:
    import os

    command = [sys.executable, "-m", "mlenv.launch", "--nproc-per-node", str(ranks), str(script)]
    ended = subprocess.run(
        [*command, *map(str, args)],
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        cwd=script.parent,
        timeout=280,
    )
    return ended.returncode


def test_a_world_dies_and_a_smaller_one_goes_on_where_it_was(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "set" / f"{number}.parquet", 100 * number, 100)
    script, got = tmp_path / "train.py", []
    script.write_text(PROGRAM)
    for ranks, steps, env in [(3, 99, {"DIE": "15"}), (2, 12, {})]:
        out = tmp_path / str(ranks)
        out.mkdir()
        if ranks == 2:
            (out / "state").write_text((tmp_path / "3" / "state").read_text())
        code = launch(script, tmp_path / "set", out, steps, ranks=ranks, **env)
        assert (code == 0) == (not env)
        got += together(out, ranks)
    plain = steps_of(world_of(tmp_path / "set", 1, batch=24, lanes=6, tail="carry"))
    assert got == [next(plain) for _ in range(27)]
    state = json.loads((tmp_path / "2" / "state").read_text())
    (again,) = world_of(tmp_path / "set", 1, batch=24, tail="carry")
    again.load_state_dict(state)
    assert state["witness"]["sealed"] == again.expected_witness()
    assert ids(next(iter(again))) == next(plain)


def together(out: Path, ranks: int) -> list[list[Any]]:
    parts = [
        [json.loads(line) for line in (out / str(rank)).read_text().splitlines()] for rank in range(ranks)
    ]
    return [[one for part in step for one in part] for step in zip(*parts, strict=True)]
