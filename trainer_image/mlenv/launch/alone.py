"""The operator's part where there is no operator: one attempt, here, then stop. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlenv_api.protocol import Answer, LauncherPhase, Order, World

if TYPE_CHECKING:
    from mlenv.launch.core import State
    from mlenv_api.protocol import Origin


def answer(state: State, procs: int, address: str, proposed: Origin | None = None) -> Answer:
    """What an operator with this launcher as its only pod would answer to `state`.

    What rank 0 proposes to run from is the record: there is nobody else who could speak for this attempt.
    """
    over = state.phase in (LauncherPhase.SUCCEEDED, LauncherPhase.FAILED)
    world = None
    if state.port is not None:
        world = World(
            num_nodes=1, node_rank=0, num_proc_per_node=procs, master_addr=address, master_port=state.port
        )
    return Answer(
        term=0,
        attempt=1,
        order=Order.STOP if over else Order.RUN,
        world=world,
        since_attempt=1,
        origin=proposed,
        stored_evidence=state.sequence,
    )
