"""To whom a job's cost belongs, from its labels.

Labels, not fields of the spec: quota, queues, dashboards and other tools read the same ones; a policy of the
cluster can set or demand them; and they may change while the job runs, which a spec may not. A change counts
from then on.
"""

from __future__ import annotations

from sys import intern
from typing import TYPE_CHECKING, Any, Final

from mlenv_api import names
from mlenv_operator.cost.facts import Attributed, Attribution

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlenv_operator.cost.facts import Micros

MAX_USER: Final = 253


def attribution(meta: Mapping[str, Any], keep: Sequence[str] = ()) -> Attribution:
    """Whose cost it is, by the metadata of a TrainingJob. `keep`: more labels to keep, where they are set.

    The user is what an annotation or a label says. Who wrote an object is not in it: managedFields name
    programs, and whoever applies for many is one user.
    """
    labels: Mapping[str, str] = meta.get("labels") or {}
    annotations: Mapping[str, str] = meta.get("annotations") or {}
    user = annotations.get(names.ANNOTATION_USER) or labels.get(names.ANNOTATION_USER) or ""
    return Attribution(
        namespace=intern(meta["namespace"]),
        job=meta["name"],
        job_uid=meta["uid"],
        team=intern(labels.get(names.LABEL_TEAM, "")),
        model=intern(labels.get(names.LABEL_MODEL, "")),
        use_case=intern(labels.get(names.LABEL_USE_CASE, "")),
        user=intern(" ".join(user.split())[:MAX_USER]),
        queue=intern(labels.get(names.LABEL_QUEUE, "")),
        labels=tuple((key, labels[key]) for key in sorted(set(keep)) if key in labels),
    )


def attributed(
    now: Attribution, created: Micros, seen: Micros, before: Attributed | None
) -> Attributed | None:
    """The fact to add to those of the job, of which `before` was the last; null when nothing changed."""
    if before is None:
        return Attributed(now.job_uid, created, now)
    if before.to == now:
        return None
    return Attributed(now.job_uid, max(seen, before.since + 1), now)
