"""The jobs of a burst: ours, anybody's from a template, and the bare objects of ours without an operator."""

from __future__ import annotations

import string
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from mlenv_api import names
from mlenv_local import fakenodes
from mlenv_operator.core.project import parse_job
from mlenv_operator.core.render.effective import effective
from mlenv_operator.core.render.pod import render_pod
from mlenv_operator.core.render.service import render_service
from mlenv_operator.kube.resources import TRAINING_JOBS, Resource

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Raw = dict[str, Any]
NAME = "g{:05d}"
IMAGE = "none.invalid/none:1"
"""Fake pods pull nothing."""


@dataclass(frozen=True)
class Kind:
    """Jobs of one operator: how one is written, and how its pods and its end are recognised."""

    title: str
    resource: Resource
    manifest: Callable[[str, str], Raw]
    """Of a name and a namespace."""
    label: str
    """On its pods: the name of the job."""
    done: str
    """The condition of a job that went well."""
    last: str = "done"
    """How far its jobs come: of a launcher that never speaks, no further than "running"."""


def job_of(name: str) -> str | None:
    """The job that an object of a burst belongs to: what operators make is called after its job."""
    width = len(NAME.format(0))
    job, rest = name[:width], name[width:]
    return job if job[:1] == "g" and job[1:].isdigit() and rest[:1] in ("", "-", ".") else None


def training_jobs(pods: int, run_for_s: float | None, launcher: str = "None") -> Kind:
    """Our own. Null: their pods run for ever. Fake pods run no program: a launcher in them never beats."""
    said = {} if run_for_s is None else {fakenodes.ANNOTATION_RUN_FOR: f"{run_for_s:g}s"}

    def manifest(name: str, namespace: str) -> Raw:
        return {
            "apiVersion": names.API_VERSION,
            "kind": names.TRAINING_JOB,
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "launcher": launcher,
                "trainer": {"image": IMAGE, "command": ["train"], "numNodes": pods},
                "scheduling": {"assemblyTimeoutSeconds": 3600},
                "podTemplateOverrides": {
                    "metadata": {"annotations": said},
                    "spec": {
                        "nodeSelector": fakenodes.NODE_SELECTOR,
                        "tolerations": [fakenodes.TOLERATION],
                    },
                },
            },
        }

    title, last = f"TrainingJob (launcher: {launcher})", "done" if launcher == "None" else "running"
    return Kind(title, TRAINING_JOBS, manifest, names.LABEL_JOB, "Complete", last)


def from_template(path: Path, label: str, done: str, pods: int, run_for_s: float) -> Kind:
    """Somebody else's: YAML of one object with ${name}, ${namespace}, ${pods} and ${run_for} in it."""
    template = string.Template(path.read_text(encoding="utf-8"))

    def manifest(name: str, namespace: str) -> Raw:
        text = template.substitute(name=name, namespace=namespace, pods=pods, run_for=f"{run_for_s:g}s")
        written: Raw = yaml.safe_load(text)
        return written

    sample = manifest("x", "x")
    group, _, version = str(sample["apiVersion"]).rpartition("/")
    plural = f"{str(sample['kind']).lower()}s"
    return Kind(str(sample["kind"]), Resource(group, version, plural), manifest, label, done)


def bare_gang(job: Raw) -> list[Raw]:
    """The objects that our operator would make of a job, as a plain client may post them.

    No owner, because there is none, and no finalizer, because nobody would remove it; another manager in the
    label, so that no operator takes them for its own.
    """
    view = parse_job({**job, "metadata": {**job["metadata"], "uid": str(uuid.uuid4())}})
    if view.spec is None:
        raise ValueError(f"the job is invalid: {'; '.join(view.problems)}")
    what = effective(view.spec, None)
    pods = [render_pod(view, what, index, 0, ()) for index in range(what.num_nodes)]
    named = () if what.mlenv or what.num_nodes == 1 else (render_service(view),)
    return [_unowned(one) for one in (*named, *pods)]


def _unowned(manifest: Raw) -> Raw:
    meta = {key: v for key, v in manifest["metadata"].items() if key not in ("ownerReferences", "finalizers")}
    meta["labels"] = {**meta["labels"], names.LABEL_MANAGED_BY: "bare-client"}
    return {**manifest, "metadata": meta}
