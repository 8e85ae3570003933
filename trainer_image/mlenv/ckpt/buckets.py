"""DDP whose sums are the same in a restarted process: its gradient buckets never change."""

from __future__ import annotations

from typing import Any

from torch.nn.parallel import DistributedDataParallel


class OrderedDDP(DistributedDataParallel):
    """DistributedDataParallel with its final buckets from the first step on.

    Plain DDP forms its buckets anew after the first backward, in the order in which gradients became ready.
    A gradient's place in its bucket decides in which order ranks are summed, so the first step of every
    process differs in its last bits from what an uninterrupted run does there. Here the buckets are formed
    once, before the first step, from the last parameter to the first: the order in which gradients of a
    feed-forward model become ready, so that communication still overlaps with the backward pass.
    """

    def __init__(self, module: Any, **options: Any) -> None:
        super().__init__(module, **options)
        if not (self.find_unused_parameters or self.static_graph):
            reducer = self.reducer
            reducer._push_all_rebuilt_params()  # noqa: SLF001  (there is no public way; torch is pinned)
            reducer._rebuild_buckets()  # noqa: SLF001

    def _build_params_for_reducer(self) -> Any:
        parameters, sparse = super()._build_params_for_reducer()  # type: ignore[no-untyped-call]
        return parameters[::-1], sparse[::-1]
