from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlenv_local.errors import LocalError
from mlenv_local.layout import FIRST_SLOT, LAST_SLOT, MAX_NODES, Layout, check_name, free_slot

NAMES = st.from_regex(r"\A[a-z]([-a-z0-9]{0,28}[a-z0-9])?\Z")
LAYOUTS = st.builds(
    Layout,
    name=NAMES,
    slot=st.integers(FIRST_SLOT, LAST_SLOT),
    node_count=st.integers(1, MAX_NODES),
    state=st.just(Path("/var/lib/mlenv")),
)


@given(LAYOUTS)
def test_all_addresses_are_distinct_and_lie_in_the_clusters_network(layout: Layout) -> None:
    addresses = [layout.host_address, *(m.address for m in layout.machines)]
    assert len(set(addresses)) == len(addresses)
    assert all(address in layout.lan for address in addresses)
    networks = [layout.lan, layout.services, *(n.pods for n in layout.nodes if n.pods)]
    assert all(network.subnet_of(layout.network) for network in networks)
    assert not any(a.overlaps(b) for a in networks for b in networks if a is not b)
    assert all(n.pods and n.pods.subnet_of(layout.pods) for n in layout.nodes)
    assert layout.kubernetes_service in layout.services


@given(LAYOUTS)
def test_names_fit_where_the_kernel_limits_them(layout: Layout) -> None:
    assert len(layout.link) <= 15
    assert all(len(m.name) <= 15 for m in layout.machines)  # a port of the switch is called after its node
    assert all(len(str(m.containerd_socket)) <= 107 for m in layout.machines)


@given(LAYOUTS, LAYOUTS)
def test_two_clusters_share_nothing_but_the_parent_folders(one: Layout, other: Layout) -> None:
    if one.name != other.name:
        assert one.root != other.root
        assert one.cgroup != other.cgroup
        assert one.root not in other.root.parents
        assert one.link != other.link
        assert one.nft_table != other.nft_table
    if one.slot != other.slot:
        assert not one.network.overlaps(other.network)


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a/b", "..", "a b", "1a", "a" * 31, "ä"])
def test_names_that_cannot_be_paths_and_host_names_are_refused(name: str) -> None:
    with pytest.raises(LocalError, match="cannot name a local cluster"):
        check_name(name)


@pytest.mark.parametrize("count", [0, -1, MAX_NODES + 1])
def test_a_number_of_nodes_that_has_no_addresses_is_refused(count: int) -> None:
    with pytest.raises(LocalError, match="1 to 60 nodes"):
        Layout("a", FIRST_SLOT, count)


def test_an_unknown_machine_is_answered_with_those_there_are() -> None:
    with pytest.raises(LocalError, match="it has control, node-1, node-2"):
        Layout("a", FIRST_SLOT, 2).machine("node-3")


def test_a_slot_is_free_if_neither_a_cluster_nor_a_specific_route_has_it() -> None:
    routes = [IPv4Network("10.0.0.0/8"), IPv4Network("10.202.3.0/24"), IPv4Network("192.168.0.0/16")]
    assert free_slot({FIRST_SLOT}, routes) == FIRST_SLOT + 2


def test_when_every_slot_is_taken_the_error_says_what_to_do() -> None:
    with pytest.raises(LocalError, match="take a cluster down"):
        free_slot(set(range(FIRST_SLOT, LAST_SLOT + 1)), [])
