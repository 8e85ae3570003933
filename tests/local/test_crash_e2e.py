"""The tool is killed at any moment; `down` leaves nothing, and `up` carries on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mlenv_local import Cluster, needs, store
from mlenv_local.journal import Entry, Journal, identify
from mlenv_local.layout import STATE
from mlenv_local.shell import run, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e
NAME = "mlenv-tk"
ROOT = STATE / NAME
# What exists shortly after the moment of the kill.
MOMENTS = {
    "name taken": ROOT / "cluster.json",
    "certificates half written": ROOT / "pki.draft",
    "machines starting": ROOT / "journal" / "control.json",
    "etcd starting": ROOT / "journal" / "etcd.json",
    "containerd up": ROOT / "node-2" / "run" / "containerd.sock",
    "kubelets starting": ROOT / "journal" / "node-1__kubelet.json",
}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    missing = needs.judge(needs.look())
    if missing:
        pytest.skip(needs.explain(missing))
    found = Cluster(NAME)
    found.down()
    yield found
    found.down()
    nothing_is_left(found)


def tool(*args: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "mlenv_local", *args, "--name", NAME]
    return subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def kill_when(process: subprocess.Popen[str], path: Path) -> None:
    assert wait_until(lambda: path.exists() or process.poll() is not None, seconds=300, interval=0.001)
    assert process.poll() is None, process.communicate()[1]
    process.send_signal(signal.SIGKILL)
    process.communicate()


def nothing_is_left(cluster: Cluster) -> None:
    """Look without the tool's own eyes, then with them."""
    layout = store.by_name_only(NAME, STATE)
    assert not ROOT.exists()
    assert str(ROOT) not in Path("/proc/self/mountinfo").read_text()
    assert not Path("/sys/class/net", layout.link).exists()
    assert layout.nft_table not in run(["nft", "list", "tables"])
    assert not list(Path("/sys/fs/cgroup").glob(f"**/mlenv/{NAME}"))
    assert not processes_naming(f"{ROOT}/")
    assert cluster.leftovers() == []


def processes_naming(text: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            cmdline = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if entry.name.isdigit() and text in cmdline:
                found.append(cmdline)
    return found


@pytest.mark.parametrize("moment", MOMENTS)
def test_down_leaves_nothing_of_an_up_that_was_killed(cluster: Cluster, moment: str) -> None:
    kill_when(tool("up"), MOMENTS[moment])
    assert cluster.leftovers()
    assert tool("down").wait(280) == 0
    nothing_is_left(cluster)


def test_up_completes_what_a_killed_up_began_and_a_killed_down_is_completed(cluster: Cluster) -> None:
    kill_when(tool("up"), MOMENTS["etcd starting"])
    cluster.up()
    assert all(cluster.status().values())
    assert cluster.ready_nodes() == ["node-1", "node-2"]
    half = tool("down")
    assert wait_until(lambda: identify_all(cluster) == [], seconds=280, interval=0.001)
    half.send_signal(signal.SIGKILL)
    half.communicate()
    cluster.down()
    nothing_is_left(cluster)


def identify_all(cluster: Cluster) -> list[Entry]:
    return [e for e in Journal(ROOT / "journal").entries() if e.process and identify(e.process.pid)]


def test_a_machine_that_lost_power_is_booted_again(cluster: Cluster) -> None:
    cluster.up(nodes=1)
    cluster.kubectl("create", "configmap", "kept")
    for entry in Journal(ROOT / "journal").entries():
        if entry.process:
            with contextlib.suppress(ProcessLookupError):
                os.kill(entry.process.pid, signal.SIGKILL)
    assert wait_until(lambda: not any(cluster.status().values()), seconds=120)
    cluster.up(nodes=1)
    assert cluster.ready_nodes() == ["node-1"]
    assert cluster.kubectl("get", "configmap", "kept", "-o", "name").strip() == "configmap/kept"


def test_a_stranger_with_a_journaled_number_lives_on(cluster: Cluster) -> None:
    with subprocess.Popen(["sleep", "300"]) as stranger:
        me = identify(stranger.pid)
        assert me is not None
        Journal(ROOT / "journal").write(Entry("etcd", ("etcd",), replace(me, start=me.start - 1)))
        cluster.down()
        assert stranger.poll() is None
        stranger.kill()


def test_down_without_a_cluster_is_no_error(cluster: Cluster) -> None:
    assert tool("down").wait(280) == 0
    assert tool("status").wait(280) == 1


def test_a_second_up_at_the_same_time_waits_for_the_first(cluster: Cluster) -> None:
    both = [tool("up"), tool("up")]
    assert [process.wait(280) for process in both] == [0, 0]
    assert all(cluster.status().values())
