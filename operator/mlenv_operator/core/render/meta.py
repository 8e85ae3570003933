"""What all objects of a job carry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlenv_api import names

if TYPE_CHECKING:
    from mlenv_operator.core.world import JobView


def job_labels(job: JobView) -> dict[str, str]:
    """Labels by which the job's objects are found."""
    return {
        names.LABEL_NAME: names.LABEL_NAME_VALUE,
        names.LABEL_MANAGED_BY: names.LABEL_MANAGED_BY_VALUE,
        names.LABEL_JOB: job.key.name,
        names.LABEL_JOB_UID: job.uid,
    }


def owner_reference(job: JobView) -> dict[str, Any]:
    """The job as controlling owner: the garbage collector removes what it leaves behind."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.TRAINING_JOB,
        "name": job.key.name,
        "uid": job.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
