"""What a job asks of machines, from its spec: what its pods would hold, and by what they select nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlenv_api.trainingjob import TrainingJobStatus
from mlenv_operator.core.render.effective import effective
from mlenv_operator.core.render.pod import render_pod
from mlenv_operator.core.world import EPOCH, JobKey, JobView
from mlenv_operator.cost.estimate import Wish
from mlenv_operator.cost.observe_nodes import meaning
from mlenv_operator.cost.resources import of_pod

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mlenv_api.podtemplate import EnvironmentSpec
    from mlenv_api.trainingjob import TrainingJobSpec


def wish_of(spec: TrainingJobSpec, environment: EnvironmentSpec | None) -> Wish:
    """From a pod as it would be made, sidecars included."""
    what = effective(spec, environment)
    pod = render_pod(_job(spec), what, 0, 0, ())["spec"]
    wanted: dict[str, frozenset[str]] = {}
    unjudged = []
    for label, values in _required(pod):
        said = [meaning(label, value) for value in values]
        names = {one[0] for one in said if one is not None}
        if None in said or len(names) != 1:
            unjudged.append(label)
            continue
        (name,), found = names, frozenset(one[1] for one in said if one is not None)
        wanted[name] = wanted.get(name, found) & found
    return Wish(what.num_nodes, of_pod(pod), wanted, tuple(dict.fromkeys(unjudged)))


def _required(pod: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Labels that a node must have, and which values; no values: something else is asked of the label."""
    for label, value in (pod.get("nodeSelector") or {}).items():
        yield label, (value,)
    affinity = (pod.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = required.get("nodeSelectorTerms") or ()
    for term in terms:
        for one in term.get("matchExpressions") or ():
            judged = len(terms) == 1 and one.get("operator") == "In"
            yield str(one.get("key")), tuple(map(str, one.get("values") or ())) if judged else ()


def _job(spec: TrainingJobSpec) -> JobView:
    """A job that is none yet."""
    return JobView(
        key=JobKey("estimate", "estimate"),
        uid="",
        generation=0,
        resource_version="",
        created=EPOCH,
        spec=spec,
        problems=(),
        status=TrainingJobStatus(),
    )
