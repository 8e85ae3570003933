"""The Python SDK of TCP: submit, watch and end training jobs without knowing Kubernetes.

For example::

    with Client() as client:
        job = client.submit({"metadata": {"name": "ranker"}, "spec": {...}})
        client.wait(job.metadata.name, timeout=3600)

Every error is an MlenvError whose text is a sentence.
"""

from mlenv_sdk.budgets import Budget
from mlenv_sdk.client import Client
from mlenv_sdk.costs import Amounts, Bill, Charge, Costs, Report
from mlenv_sdk.errors import (
    AlreadyExists,
    Cause,
    ConfigError,
    Conflict,
    Forbidden,
    InvalidManifest,
    JobEnded,
    MlenvError,
    NotFound,
    NotInstalled,
    NotReady,
    Refused,
    Rejected,
    TimedOut,
    Unauthorized,
    Unavailable,
    Unreachable,
    Unreadable,
)
from mlenv_sdk.estimates import Estimate, Machine
from mlenv_sdk.resources import Event, Metadata, Pod, TrainingJob
from mlenv_sdk.version import __version__

__all__ = [
    "AlreadyExists",
    "Amounts",
    "Bill",
    "Budget",
    "Cause",
    "Charge",
    "Client",
    "ConfigError",
    "Conflict",
    "Costs",
    "Estimate",
    "Event",
    "Forbidden",
    "InvalidManifest",
    "JobEnded",
    "Machine",
    "Metadata",
    "MlenvError",
    "NotFound",
    "NotInstalled",
    "NotReady",
    "Pod",
    "Refused",
    "Rejected",
    "Report",
    "TimedOut",
    "TrainingJob",
    "Unauthorized",
    "Unavailable",
    "Unreachable",
    "Unreadable",
    "__version__",
]
