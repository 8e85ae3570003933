"""The shell around the core, as small as it can be: sees, plans, carries out, and can die at any moment."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fake_cluster import ApiError, FakeCluster, Raw

from mlenv_api.conditions import Reason
from mlenv_operator.core import actions as act
from mlenv_operator.core.answers import answer
from mlenv_operator.core.books import NO_BOOKS, Books
from mlenv_operator.core.plan import plan
from mlenv_operator.core.project import (
    drain_state,
    parse_environment,
    parse_job,
    parse_revision,
    project_node,
    project_pod,
)
from mlenv_operator.core.rejections import reject
from mlenv_operator.core.world import BeatView, CoreSettings, DrainState, NodeView, Rejection, World

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

COALESCE_S = 10


class KilledError(Exception):
    """The operator's process was killed."""


def never(_step: str) -> None:
    """Let the operator live."""


@dataclass
class FakeOperator:
    """One life of the operator."""

    cluster: FakeCluster
    term: int = 1
    settings: CoreSettings = field(default_factory=CoreSettings)
    job: Raw | None = None
    pods: dict[str, Raw] = field(default_factory=dict)
    nodes: dict[str, Raw] = field(default_factory=dict)
    beats: dict[str, BeatView] = field(default_factory=dict)
    rejection: Rejection | None = None
    drain: DrainState | None = None
    books: Books = NO_BOOKS
    events: list[act.Event] = field(default_factory=list)
    written_at: datetime | None = None
    missing_since: dict[str, datetime] = field(default_factory=dict)
    check: Callable[[World, act.Plan], None] = lambda _world, _plan: None
    last: act.Plan | None = None

    def __post_init__(self) -> None:
        self.listening_since = self.cluster.now
        self.sync()

    # ---- observation ------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Every watch has caught up."""
        self.job = self.cluster.job
        self.pods = {pod["metadata"]["uid"]: pod for pod in self.cluster.pods.values()}
        self.nodes = dict(self.cluster.nodes)

    def see_pod(self, uid: str) -> None:
        """The watch of pods brings one object."""
        found = [pod for pod in self.cluster.pods.values() if pod["metadata"]["uid"] == uid]
        if found:
            self.pods[uid] = found[0]
        else:
            self.pods.pop(uid, None)
            self.beats.pop(uid, None)

    def hear(self, uid: str) -> None:
        """One launcher beats, and gets its answer from what is stored as this operator knows it."""
        launcher = self.cluster.launchers.get(uid)
        raw = self.pods.get(uid)
        if launcher is None or launcher.stopped or raw is None or self.job is None:
            return
        view = project_pod(raw)
        assert view is not None
        heard = BeatView(launcher.beat(self.cluster.now), self.cluster.now)
        self.beats[uid] = heard

        def started(attempt: int, world: Any) -> None:
            self.cluster.starts.append((attempt, view.index, uid, world))

        launcher.obey(answer(parse_job(self.job), view, heard, self.term, settings=self.settings), started)

    def world(self) -> World:
        cluster = self.cluster
        job = parse_job(self.job) if self.job is not None else None
        views = tuple(view for raw in self.pods.values() if (view := project_pod(raw)) is not None)
        return World(
            now=cluster.now,
            job=job,
            pods=views,
            has_service=bool(cluster.services),
            environment=parse_environment(cluster.environment) if cluster.environment else None,
            revisions={
                name: spec
                for name, raw in cluster.revisions.items()
                if (spec := parse_revision(raw)) is not None
            },
            beats=dict(self.beats),
            nodes={view.node: self._node(view.node) for view in views if view.node},
            rejections=(self.rejection,) if self.rejection else (),
            drain=self.drain,
            books=self.books,
            listening_since=self.listening_since,
            operator_urls=("http://10.96.0.9:8080",),
            settings=self.settings,
        )

    def _node(self, name: str) -> NodeView:
        if name in self.nodes:
            return project_node(self.nodes[name])
        since = self.missing_since.setdefault(name, self.cluster.now)
        return NodeView(name, ready=False, gone=True, since=since)

    # ---- reconcile --------------------------------------------------------------------------------------

    def step(self, alive: Callable[[str], None] = never) -> act.Plan:
        """One reconcile. ``alive`` is asked before every write and may raise."""
        world = self.world()
        made = plan(world)
        self.last = made
        self.check(world, made)
        if made.status is not None and made.move:
            self._carry_out(made.actions, alive)
            self._write(made, alive)
            return made
        self._carry_out(made.actions, alive)
        if made.status is not None and self._is_due(made.status_urgency):
            self._write(made, alive)
        return made

    def settle(self, limit: int = 60) -> act.Plan:
        """Reconcile, seeing everything, until there is nothing to do now."""
        for _ in range(limit):
            self.sync()
            before = len(self.cluster.writes)
            made = self.step()
            if not made.move and len(self.cluster.writes) == before:
                return made
        raise AssertionError(f"does not come to rest: {self.last}")

    def _is_due(self, urgency: act.Urgency) -> bool:
        if urgency >= act.Urgency.CONDITION or self.written_at is None:
            return True
        return (self.cluster.now - self.written_at).total_seconds() >= COALESCE_S

    def _write(self, made: act.Plan, alive: Callable[[str], None]) -> None:
        alive("status")
        assert made.status is not None
        assert self.job is not None
        meta = self.job["metadata"]
        try:
            self.job = self.cluster.put_status(meta["uid"], meta["resourceVersion"], made.status.wire())
        except ApiError:
            self.job = self.cluster.job  # 409: start over from what is stored
            return
        self.written_at = self.cluster.now
        for event in made.events:
            alive("event")
            self.cluster.writes.append(f"event {event.reason}")
            self.events.append(event)

    def _carry_out(self, steps: tuple[act.Action, ...], alive: Callable[[str], None]) -> None:
        for step in steps:
            alive(type(step).__name__)
            try:
                self._do(step)
            except ApiError as error:
                if isinstance(step, act.CreatePod) and error.code not in (404, 409):
                    self._remember(step, error)
                    return

    def _do(self, step: act.Action) -> None:
        cluster = self.cluster
        if isinstance(step, act.CreateRevision):
            cluster.create_revision(step.manifest)
        elif isinstance(step, act.CreateService):
            cluster.create_service(step.manifest)
        elif isinstance(step, act.CreatePod):
            made = cluster.create_pod(step.manifest)
            self.pods[made["metadata"]["uid"]] = made  # read your own writes
            self.rejection = None
        elif isinstance(step, act.Drain):
            self.drain = drain_state(cluster.drain(step.manifest))
        elif isinstance(step, act.DeletePod):
            cluster.delete_pod(step.name, step.uid)
        elif isinstance(step, act.StripFinalizer):
            cluster.strip_finalizer(step.name, step.uid, step.position)
        else:
            cluster.delete_job(step.uid)

    def _remember(self, step: act.CreatePod, error: ApiError) -> None:
        reason = Reason.QUOTA_EXCEEDED if "exceeded quota" in error.message else Reason.POD_SECURITY
        what = f"Pod {step.manifest['metadata']['name']}"
        self.rejection = reject(
            reason, what, error.message, before=self.rejection, now=self.cluster.now, settings=self.settings
        )


def restarted(operator: FakeOperator) -> FakeOperator:
    """The next life: what was in memory is gone, the term is the next one."""
    return replace(
        operator,
        term=operator.term + 1,
        beats={},
        rejection=None,
        drain=None,
        written_at=None,
        missing_since={},
    )
