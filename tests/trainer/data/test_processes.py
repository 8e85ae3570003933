"""What a Stream does to its process: forks, memory, threads, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from datasets import write

if TYPE_CHECKING:
    from pathlib import Path


def python(program: str, *args: object) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", program, *map(str, args)],
        check=False,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(2):
        write(tmp_path / "set" / f"{number}.parquet", 500 * number, 500)
    return tmp_path / "set"


def test_importing_it_starts_nothing() -> None:
    assert (
        python("""
import sys, mlenv
assert "torch" not in sys.modules
import mlenv.data
assert not {"torch", "pyarrow", "fsspec", "numpy"} & set(sys.modules)
import threading
from mlenv.data import Stream, Evaluation, merge, synthetic
assert not {"pyarrow", "s3fs", "aiobotocore"} & set(sys.modules)
assert threading.active_count() == 1
print("clean")
""")
        == "clean\n"
    )


def test_ranks_forked_from_a_server_that_has_imported_it(folder: Path) -> None:
    program = """
import os, sys
import torch
from mlenv.data import Stream
for rank in range(2):
    if os.fork() == 0:
        stream = Stream(sys.argv[1], 20, rank=rank, world=2, workers=2, epochs=1)
        os._exit(0 if sum(batch.rows for batch in stream) == 500 else 1)
print([os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(2)])
"""
    assert python(program, folder) == "[0, 0]\n"


def test_a_fork_in_the_middle_of_a_pass_goes_on_in_both(folder: Path) -> None:
    program = """
import os, sys
from mlenv.data import Stream
stream = Stream(sys.argv[1], 20, rank=0, world=1, workers=2, epochs=1)
batches = iter(stream)
next(batches)
child = os.fork()
rows = sum(batch.rows for batch in batches)
if child == 0:
    os._exit(0 if rows == 980 else 1)
print(rows, os.waitstatus_to_exitcode(os.wait()[1]))
"""
    assert python(program, folder) == "980 0\n"


def test_a_program_that_leaves_in_the_middle_ends(folder: Path) -> None:
    program = """
import sys
from mlenv.data import Stream
next(iter(Stream(sys.argv[1], 20, rank=0, world=1, workers=3)))
print("left")
"""
    assert python(program, folder) == "left\n"


def test_a_program_does_not_wait_for_a_store_that_is_away(folder: Path) -> None:
    program = """
import sys
from mlenv.data import Parquet, Stream
source = Parquet(sys.argv[1], patience=3600)
def away(*_):
    raise OSError("away")
source._fetcher._once = away
stream = Stream(source, 20, rank=0, world=1, workers=2)
stream._loader_here()._read_ahead()
print("left")
"""
    assert python(program, folder) == "left\n"


def test_memory_stays_below_what_was_said(tmp_path: Path) -> None:
    # 40 row groups of about 8 MB each: a loader that kept them would hold 320 MB.
    program = """
import sys, resource
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
from mlenv.data import Stream
rows = 40 * 50_000
columns = {f"x{i}": np.random.default_rng(i).random(rows) for i in range(20)}
pq.write_table(pa.table(columns), sys.argv[1], row_group_size=50_000, compression="none")
del columns
pa.default_memory_pool().release_unused()
stream = Stream(sys.argv[1], 1000, lanes=1, rank=0, world=1, workers=1, epochs=1)
rss = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096
batches = stream.batches()
next(batches)
before, most, threads = rss(), 0, set()
for number, batch in enumerate(batches):
    most = max(most, rss())
print(most - before, stream.open_bytes, number)
"""
    grown, said, steps = map(int, python(program, tmp_path / "a.parquet").split())
    assert steps == 2000 - 2
    assert said < 100 << 20
    assert grown < said + (32 << 20)  # Arrow's pool keeps some of what was freed
