from __future__ import annotations

import json
import secrets
import subprocess
import sys
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from mlenv_local import cgroups, network, store
from mlenv_local.errors import CommandError, LocalError
from mlenv_local.external import ExternalCluster
from mlenv_local.host import locked
from mlenv_local.layout import Layout
from mlenv_local.processes import tail
from mlenv_local.shell import run, wait_until
from mlenv_local.teardown import remove_tree

LAYOUT = Layout("t", 201, 2)
V1 = "28 24 0:25 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu"
V2 = "29 24 0:26 / /sys/fs/cgroup/unified rw shared:1 - cgroup2 cgroup2 rw"


@pytest.mark.parametrize(
    ("mountinfo", "found"),
    [
        (V1, ["/sys/fs/cgroup/cpu"]),
        (V2, ["/sys/fs/cgroup/unified"]),
        (f"{V1}\n{V2}", ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/unified"]),
        ("22 1 254:0 / / rw - ext4 /dev/vda rw", []),
    ],
)
def test_cgroups_live_in_every_hierarchy(mountinfo: str, found: list[str]) -> None:
    assert cgroups.hierarchies(mountinfo) == [Path(path) for path in found]


def test_routes_become_networks() -> None:
    routes = [{"dst": "default"}, {"dst": "10.1.0.0/16"}, {"dst": "10.2.0.1"}, {"dst": "fe80::/64"}, {}]
    assert network.used_networks(json.dumps(routes)) == [
        IPv4Network("10.1.0.0/16"),
        IPv4Network("10.2.0.1/32"),
    ]
    assert network.used_networks("") == []


def test_a_resolver_on_loopback_is_of_no_use_to_another_machine() -> None:
    stub, real = "nameserver 127.0.0.53\noptions edns0\n", "nameserver 1.1.1.1\nnameserver fe80::1\n"
    assert network.resolvers(stub, real) == ("1.1.1.1",)
    assert network.resolvers(stub) == ()


def test_every_node_reaches_the_pods_of_every_other() -> None:
    one, two = LAYOUT.nodes
    assert f"route replace {two.pods} via {two.address} dev eth0" in network.node_setup(LAYOUT, one)
    assert str(one.pods) not in network.node_setup(LAYOUT, one)
    for text in (network.host_setup(LAYOUT), network.control_setup(LAYOUT)):
        assert all(f"route replace {n.pods} via {n.address}" in text for n in LAYOUT.nodes)


def test_what_is_remembered_of_a_cluster_is_enough_to_know_it_again(tmp_path: Path) -> None:
    made = store.create(
        tmp_path, "t", lambda taken: Layout("t", 210 + len(taken), 3, tmp_path, Path("/x"), egress=False)
    )
    assert store.load("t", tmp_path) == made
    assert store.names(tmp_path) == ["t"]
    assert store.taken_slots(tmp_path) == {210}
    assert store.load("other", tmp_path) is None
    assert store.by_name_only("other", tmp_path).link != made.link


def test_a_lock_keeps_others_out_and_leaves_no_file() -> None:
    script = (
        "import fcntl, sys\n"
        "with open(sys.argv[1]) as file:\n"
        "    try: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "    except BlockingIOError: sys.exit(3)\n"
    )
    name = f"unit-test-{secrets.token_hex(4)}"  # another checkout's tests may run beside these
    path = Path(f"/run/lock/mlenv-{name}.lock")
    try:
        with locked(name):
            assert subprocess.run([sys.executable, "-c", script, str(path)], check=False).returncode == 3
    except PermissionError:
        pytest.skip("/run/lock is not writable here")
    assert not path.exists()


def test_a_failing_command_says_which_and_why() -> None:
    with pytest.raises(CommandError, match="ended with code 3: oops") as caught:
        run(["sh", "-c", "echo oops >&2; exit 3"])
    assert caught.value.returncode == 3
    with pytest.raises(LocalError, match="'no-such-program' is not on this machine"):
        run(["no-such-program"])
    with pytest.raises(LocalError, match="did not end within 0 s"):
        run(["sleep", "5"], timeout=0.05)


def test_waiting_ends_with_the_condition_or_the_deadline() -> None:
    assert wait_until(lambda: True, seconds=0)
    assert not wait_until(lambda: False, seconds=0.01, interval=0.001)


def test_the_tail_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert tail(log, 2) == []
    log.write_text("".join(f"{n}\n" for n in range(50_000)))
    assert tail(log, 2) == ["49998", "49999"]


def test_a_tree_is_removed_and_what_links_point_to_is_not(tmp_path: Path) -> None:
    keep, root = tmp_path / "keep", tmp_path / "root"
    for folder in (keep, root / "a" / "b" / "c", root / "empty"):
        folder.mkdir(parents=True)
        (folder / "file").write_text("x")
    (root / "a" / "link").symlink_to(keep)
    (root / "a" / "dangling").symlink_to("nowhere")
    remove_tree(root)
    remove_tree(root)
    assert not root.exists()
    assert (keep / "file").read_text() == "x"


def test_an_existing_cluster_is_used_but_never_changed(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="There is no kubeconfig at"):
        ExternalCluster(tmp_path / "none")
    (tmp_path / "config").write_text("{}")
    with pytest.raises(LocalError, match="push the image to a registry"):
        ExternalCluster(tmp_path / "config").load_image(Path("a.tar"))
