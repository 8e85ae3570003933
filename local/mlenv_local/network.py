"""Addresses, routes and firewall of a cluster: pure texts for `ip -batch` and `nft -f`."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlenv_local.layout import Layout, Machine

# The control machine's end of the cable to the host.
HOST_PORT = "host"


def host_cable(layout: Layout, control_pid: int) -> str:
    """Plug the host into the control machine's switch."""
    return f"link add {layout.link} type veth peer name {HOST_PORT} netns {control_pid}\n"


def host_setup(layout: Layout) -> str:
    """The host reaches machines directly, pods through their node, ClusterIPs through the control machine."""
    link = layout.link
    return "\n".join(
        [
            f"addr replace {layout.host_address}/{layout.lan.prefixlen} dev {link}",
            f"link set {link} up",
            f"route replace {layout.services} via {layout.control.address} dev {link}",
            *(f"route replace {n.pods} via {n.address} dev {link}" for n in layout.nodes),
            "",
        ]
    )


def control_setup(layout: Layout) -> str:
    """Routes of the control machine, run inside it once the host is plugged in."""
    return "\n".join(
        [
            f"link set {HOST_PORT} master lan",
            f"link set {HOST_PORT} up",
            f"route replace default via {layout.host_address} dev lan",
            *(f"route replace {n.pods} via {n.address} dev lan" for n in layout.nodes),
            "",
        ]
    )


def node_cable(node: Machine, node_pid: int, control_pid: int) -> str:
    """Plug a node into the control machine's switch; its port there is called after the node."""
    return f"link add eth0 netns {node_pid} type veth peer name {node.name} netns {control_pid}\n"


def node_port(node: Machine) -> str:
    """Open the node's port, run inside the control machine."""
    return f"link set {node.name} master lan\nlink set {node.name} up\n"


def node_setup(layout: Layout, node: Machine) -> str:
    """Address and routes of a node, run inside it."""
    others = [other for other in layout.nodes if other != node]
    return "\n".join(
        [
            f"addr replace {node.address}/{layout.lan.prefixlen} dev eth0",
            "link set eth0 up",
            f"route replace default via {layout.host_address} dev eth0",
            *(f"route replace {o.pods} via {o.address} dev eth0" for o in others),
            "",
        ]
    )


def egress_rules(layout: Layout) -> str:
    """Let machines and pods out to the world under the host's address; replaces what an earlier call set."""
    table, inside = layout.nft_table, layout.network
    return f"""table ip {table}
delete table ip {table}
table ip {table} {{
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {inside} ip daddr != {inside} masquerade
  }}
}}
"""


BLOCK_TABLE = "mlenv_block"


def block_rules(destinations: Sequence[str]) -> str:
    """Drop what a node's pods send to these addresses, ClusterIPs too; replaces what was set before."""
    lines = [f"table ip {BLOCK_TABLE}", f"delete table ip {BLOCK_TABLE}"]
    if destinations:
        lines += [
            f"add table ip {BLOCK_TABLE}",
            f"add chain ip {BLOCK_TABLE} prerouting {{ type filter hook prerouting priority raw; }}",
            f"add rule ip {BLOCK_TABLE} prerouting ip daddr {{ {', '.join(destinations)} }} drop",
        ]
    return "\n".join([*lines, ""])


def used_networks(routes_json: str) -> list[IPv4Network]:
    """Destinations of `ip -json route show table all`, without defaults and broadcast entries."""
    networks = []
    for route in json.loads(routes_json or "[]"):
        destination = route.get("dst", "default")
        if destination != "default" and ":" not in destination:
            networks.append(IPv4Network(destination, strict=False))
    return networks


def resolvers(*resolv_confs: str) -> tuple[str, ...]:
    """Nameservers of the first file that has any which another network namespace can reach (no loopback)."""
    for text in resolv_confs:
        fields = [line.split() for line in text.splitlines() if line.startswith("nameserver")]
        found = tuple(f[1] for f in fields if len(f) > 1 and _is_reachable(f[1]))
        if found:
            return found
    return ()


def _is_reachable(address: str) -> bool:
    try:
        return not IPv4Address(address).is_loopback
    except ValueError:
        return False
