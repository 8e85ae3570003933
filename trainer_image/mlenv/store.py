"""The stores of a pod's worlds: ``python -m mlenv.store ADDRESS``, a child of the first node's launcher.

It hosts torch's TCPStore, one for each attempt in turn. It is never a rank: a rank that dies takes no store
along; and it has torch imported: the next attempt's store opens in milliseconds. Each line on standard input
opens one, ``{"store": 3, "port": 0}`` (port 0: a free one), and closes the one before. Two lines answer it:
the port, once it can be connected to, and the same with ``"serves": true`` once somebody answers there: in a
new process torch has to be imported in between, and ranks may well import theirs at the same time. Ends with
its standard input.
"""

from __future__ import annotations

import json
import socket
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from mlenv.launch.procs import die_with_parent

if TYPE_CHECKING:
    from torch._C._distributed_c10d import TCPStore


def main(address: str) -> None:
    """Serve on `address` until standard input ends."""
    die_with_parent()
    held: list[TCPStore] = []
    for line in sys.stdin:
        wanted = json.loads(line)
        held.clear()  # closes it
        listener = listen(address, wanted["port"])
        bound = {"store": wanted["store"], "port": listener.getsockname()[1]}
        _tell(bound)
        held.append(serve(address, listener))
        _tell(bound | {"serves": True})


def _tell(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)  # noqa: T201


def listen(address: str, port: int) -> socket.socket:
    """A socket that can be connected to. Raises OSError when the address or the port cannot be had."""
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen(4096)
    return listener


def serve(address: str, listener: socket.socket) -> TCPStore:
    """A store that answers at the socket."""
    import torch.distributed  # noqa: PLC0415, F401  (takes seconds, and initialises the module below)
    from torch._C._distributed_c10d import TCPStore  # noqa: PLC0415

    return TCPStore(
        address,
        listener.getsockname()[1],
        is_master=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=60),
        master_listen_fd=listener.detach(),
    )


if __name__ == "__main__":
    main(sys.argv[1])
