"""A probe that raises on one rank only: all ranks leave it together, and say the same of the checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import programs
import worlds

from mlenv.ckpt.seal import parse

if TYPE_CHECKING:
    from pathlib import Path


def test_all_ranks_leave_it_together_and_say_the_same(tmp_path: Path) -> None:
    ran = worlds.run(programs.lone_error, tmp_path / "w", 2, str(tmp_path))
    assert ran[1]["after"] >= ran[0]["left"], "a rank trained on while another was in the probe"
    assert [one["sealed"] for one in ran] == [None, None]
    assert [one["errors"] for one in ran] == [["probe: it raised ValueError: only here"]] * 2
    (seal,) = (tmp_path / "kept").glob("step-*/SEAL.json")
    assert parse(seal.read_bytes()).insane == ("probe: it raised ValueError: only here",)
