"""Nodes that change, and the jobs on them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mlenv_operator.adapters.nodes import NodeNews
from mlenv_operator.core.world import JobKey, PodView

if TYPE_CHECKING:
    from collections.abc import Iterator


def pod(job: str, index: int, node: str) -> PodView:
    name = f"{job}-{index}-0"
    return PodView("team", name, name, job_uid=job, job_name=job, index=index, incarnation=0, node=node)


async def test_all_nodes_of_a_moment_cost_one_look_at_the_pods() -> None:
    pods = [pod("a", 0, "n1"), pod("a", 1, "n2"), pod("b", 0, "n2"), pod("c", 0, "n3"), pod("d", 0, "")]
    looks, found = 0, list[JobKey]()

    def views() -> Iterator[PodView]:
        nonlocal looks
        looks += 1
        return iter(pods)

    news = NodeNews(views, found.append)
    for node in ("n1", "n2", "n2", "gone"):
        news.changed(node)
    assert (looks, found) == (0, [])
    await asyncio.sleep(0)
    assert (looks, sorted(found)) == (1, [JobKey("team", "a"), JobKey("team", "b")])
    news.changed("n3")
    await asyncio.sleep(0)
    assert (looks, found[2:]) == (2, [JobKey("team", "c")])
