"""The informers of the operator: pods, Services, snapshots, environments, nodes, as slim views."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlenv_api import names
from mlenv_operator.adapters.metrics import Metrics, WatchReport
from mlenv_operator.adapters.pricebooks import project_book
from mlenv_operator.core.budgets import read_budget
from mlenv_operator.core.project import (
    parse_environment,
    parse_revision,
    project_node,
    project_pod,
)
from mlenv_operator.core.world import EnvironmentView, JobKey, NodeView, PodView
from mlenv_operator.kube import resources
from mlenv_operator.kube.client import EVERYTHING, Client, Selection
from mlenv_operator.kube.sources import KindSource
from mlenv_operator.runtime.informer import Informer
from mlenv_operator.runtime.reflector import Reflector

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Hashable

    from mlenv_api.podtemplate import EnvironmentSpec
    from mlenv_operator.core.budgets import BudgetView
    from mlenv_operator.cost.books import BookView
    from mlenv_operator.kube.resources import Resource
    from mlenv_operator.runtime.clock import Clock

OURS = Selection(label_selector=f"{names.LABEL_MANAGED_BY}={names.LABEL_MANAGED_BY_VALUE}")
OUR_METADATA = Selection(label_selector=OURS.label_selector, metadata_only=True)


@dataclass(frozen=True, slots=True)
class ServiceView:
    """One of our Services."""

    owner: str
    """UID of the job that it belongs to."""


@dataclass(frozen=True, slots=True)
class RevisionView:
    """A snapshot of an environment."""

    namespace: str
    name: str
    uid: str
    created: str
    spec: EnvironmentSpec | None


@dataclass(frozen=True, slots=True)
class Caches:
    """Everything that is watched, but for the jobs."""

    pods: Informer[PodView]
    services: Informer[ServiceView]
    revisions: Informer[RevisionView]
    environments: Informer[EnvironmentView]
    cluster_environments: Informer[EnvironmentView]
    nodes: Informer[NodeView]
    price_books: Informer[BookView]
    budgets: Informer[BudgetView]

    def all(self) -> tuple[Informer[Any], ...]:
        """Every informer."""
        return (
            self.pods,
            self.services,
            self.revisions,
            self.environments,
            self.cluster_environments,
            self.nodes,
            self.price_books,
            self.budgets,
        )


def build_caches(client: Client, clock: Clock, rng: random.Random, metrics: Metrics) -> Caches:
    """The informers, not yet running."""

    def informer(
        resource: Resource,
        project: Callable[[dict[str, Any]], Any],
        selection: Selection = EVERYTHING,
        owner_of: Callable[[Any], Hashable | None] = lambda _: None,
    ) -> Informer[Any]:
        report = WatchReport(metrics, resource.plural)
        made: Informer[Any] = Informer(
            resource.plural,
            KindSource(client, resource, selection),
            Reflector(project, owner_of),
            clock,
            rng,
            metrics=report,
        )
        report.watch(lambda: len(made))
        return made

    return Caches(
        pods=informer(resources.PODS, project_pod, OURS, lambda pod: JobKey(pod.namespace, pod.job_name)),
        services=informer(resources.SERVICES, _service, OUR_METADATA),
        revisions=informer(resources.CONTROLLER_REVISIONS, _revision, OURS),
        environments=informer(resources.ENVIRONMENTS, _environment(names.ENVIRONMENT)),
        cluster_environments=informer(
            resources.CLUSTER_ENVIRONMENTS, _environment(names.CLUSTER_ENVIRONMENT)
        ),
        nodes=informer(resources.NODES, project_node),
        price_books=informer(resources.PRICE_BOOKS, project_book),
        budgets=informer(resources.BUDGETS, read_budget),
    )


def _environment(kind: str) -> Callable[[dict[str, Any]], EnvironmentView]:
    """Items of a list do not say their kind."""
    return lambda raw: parse_environment({**raw, "kind": kind})


def _service(raw: dict[str, Any]) -> ServiceView | None:
    owners = raw["metadata"].get("ownerReferences") or ()
    owner = next((one["uid"] for one in owners if one.get("controller")), None)
    return None if owner is None else ServiceView(owner)


def _revision(raw: dict[str, Any]) -> RevisionView:
    metadata = raw["metadata"]
    return RevisionView(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        created=metadata.get("creationTimestamp") or "",
        spec=parse_revision(raw),
    )
