"""A job on a fake cluster, with one operator: what tests of whole lives are told in."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from consistency import contradictions, plan_contradictions
from fake_cluster import FakeCluster, Raw
from fake_operator import FakeOperator

from mlenv_api.protocol import LauncherPhase
from mlenv_operator.core.project import parse_job

if TYPE_CHECKING:
    from mlenv_api.trainingjob import AttemptState, TrainingJobStatus


def check(world: Any, made: Any) -> None:
    assert contradictions(world) == []
    assert plan_contradictions(world, made) == []


class Run:
    """A job on a fake cluster, with one operator."""

    def __init__(self, *, environment: Raw | None = None, **spec: Any) -> None:
        trainer = {"image": "img:1", "command": ["train.py"], "numNodes": spec.pop("nodes", 2)}
        base: Raw = {"trainer": trainer, **spec}
        if environment is not None:
            base["environmentRef"] = {"name": environment["metadata"]["name"]}
        self.cluster = FakeCluster(base, environment=environment)
        self.operator = FakeOperator(self.cluster, check=check)

    @property
    def status(self) -> TrainingJobStatus:
        assert self.cluster.job is not None
        return parse_job(self.cluster.job).status

    @property
    def state(self) -> AttemptState | None:
        return self.status.attempt.state if self.status.attempt else None

    def condition(self, type_: str) -> tuple[str, str, str]:
        found = next(one for one in self.status.conditions if one.type == type_)
        return found.status, found.reason, found.message

    def after(self, seconds: float) -> Run:
        self.cluster.now += timedelta(seconds=seconds)
        return self

    def settle(self) -> Run:
        self.operator.settle()
        return self

    def start_pods(self) -> Run:
        self.settle()
        nodes = sorted(self.cluster.nodes)
        for place, name in enumerate(sorted(self.cluster.pods)):
            self.cluster.run_pod(name, nodes[place % len(nodes)])
        return self.settle()

    def beat(self, *, hear_twice: bool = True) -> Run:
        for _ in range(2 if hear_twice else 1):
            for uid in list(self.cluster.launchers):
                self.operator.hear(uid)
            self.settle()
        return self

    def running(self) -> Run:
        return self.start_pods().beat().beat()

    def finish(self) -> Run:
        for launcher in self.cluster.launchers.values():
            launcher.phase = LauncherPhase.SUCCEEDED
        return self.beat()

    def launcher(self, name: str) -> Any:
        return self.cluster.launcher_of(name)

    def names(self) -> list[str]:
        return sorted(self.cluster.pods)
