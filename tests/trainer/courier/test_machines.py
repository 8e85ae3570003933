"""Every node's machine has its metrics in W&B, in the job's group: also where one courier carries for all."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from wandb_server import Client

from mlenv import rows
from mlenv.courier import __main__ as main
from mlenv.courier import pages, quiet
from mlenv.history import History

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bench import Pod
    from wandb_server import Server

LOOK = """\
    import time
    end, found = time.monotonic() + 240, {}
    while len(found) < len(sys.argv) - 1 and time.monotonic() < end:
        for path in sys.argv[1:]:
            try: run = wandb.Api().run(path)
            except Exception: continue
            rows = run.history(stream="system", pandas=False)
            told = [one for one in rows if any(key.startswith("system.") for key in one)]
            if told: found[run.id] = [run.group, run.state]
        time.sleep(0.1)
    tell(found)
"""


@pytest.fixture
def look(
    wandb_and_key: tuple[Server, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """What runs of a project tell of their machines, once all of them do."""
    monkeypatch.setitem(quiet.QUIET, "WANDB_X_STATS_SAMPLING_INTERVAL", "0.1")
    folder = tmp_path / "user"
    folder.mkdir()
    client = Client(wandb_and_key[0], folder, wandb_and_key[1], "ada")
    return lambda project, *runs: client.run(LOOK, *(f"ada/{project}/{one}" for one in runs))


def test_nodes_with_folders_of_their_own_have_a_run_each(
    pods: Callable[..., Pod], look: Callable[..., Any]
) -> None:
    first, second = pods("node-0"), pods("node-1", node=1)
    history = History(first.own.parent / rows.FOLDER, rows.Head("uid-1", 1, 0))
    history.add(1, {"loss": 0.5}, 2, 0)
    history.flush()
    history.close(None)
    first.turn()
    second.turn()
    found = look(first.config.project, "uid-1", "uid-1-node-1")
    assert found == {"uid-1": ["uid-1", "running"], "uid-1-node-1": ["uid-1", "running"]}


def test_where_node_0_carries_for_all_the_others_tell_of_their_machines_alone(
    pods: Callable[..., Pod], look: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = pods("node-1", node=1)
    monkeypatch.setenv("WANDB_API_KEY", pod.env["WANDB_API_KEY"])
    end = threading.Event()
    ended: list[int] = []
    config = replace(pod.config, idle=True)
    thread = threading.Thread(target=lambda: ended.append(main._attend(config, end)))
    thread.start()
    try:
        found = look(pod.config.project, "uid-1-node-1")
    finally:
        end.set()
        thread.join()
    assert found == {"uid-1-node-1": ["uid-1", "running"]}
    assert ended == [0]
    assert pages.read(pod.own, pages.REPORT, pages.Report) is None, "the folder is node 0's, too"
    assert look(pod.config.project, "uid-1-node-1")["uid-1-node-1"][1] == "finished"
