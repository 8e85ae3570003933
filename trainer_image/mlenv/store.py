"""The stores of a pod's worlds: ``python -m mlenv.store ADDRESS``, a child of the first node's launcher.

It hosts torch's TCPStore, one for each attempt in turn. It is never a rank: a rank that dies takes no store
along; and it has torch imported: the next attempt's store opens in milliseconds. Each line on standard input
opens one, ``{"store": 3, "port": 0}`` (port 0: a free one), closes the one before, and is answered by a line
with the port. Ends with its standard input.
"""

from __future__ import annotations

import json
import socket
import sys
from datetime import timedelta
from typing import TYPE_CHECKING

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
        store, port = serve(address, wanted["port"])
        held.append(store)
        print(json.dumps({"store": wanted["store"], "port": port}), flush=True)  # noqa: T201


def serve(address: str, port: int) -> tuple[TCPStore, int]:
    """A store that listens, and its port. Raises OSError when the address or the port cannot be had."""
    import torch.distributed  # noqa: PLC0415, F401  (takes seconds, and initialises the module below)
    from torch._C._distributed_c10d import TCPStore  # noqa: PLC0415

    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen(4096)
    bound: int = listener.getsockname()[1]
    store = TCPStore(
        address,
        bound,
        is_master=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=60),
        master_listen_fd=listener.detach(),
    )
    return store, bound


if __name__ == "__main__":
    main(sys.argv[1])
