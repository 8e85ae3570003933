"""The client: training jobs as values, Kubernetes out of sight."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from mlenv_api.names import ANNOTATION_CHECKPOINT, API_VERSION, LABEL_JOB, TRAINING_JOB, TRAINING_JOBS
from mlenv_sdk import watching, worktree
from mlenv_sdk.budgets import BUDGETS_PATH, Budget, read_budgets
from mlenv_sdk.costs import Costs
from mlenv_sdk.errors import InvalidManifest, JobEnded, NotFound, Refused
from mlenv_sdk.logs import PodLogs
from mlenv_sdk.resources import Event, Pod, TrainingJob
from mlenv_sdk.transport import MERGE_PATCH, Transport

if TYPE_CHECKING:
    import os
    from types import TracebackType

    from mlenv_api.checkpoints import CheckpointRef

PAGE = 500


class Client:
    """A connection to one cluster, bound to one namespace.

    Without arguments: KUBECONFIG, else ``~/.kube/config``, else the pod's own account; and the namespace that
    goes with it. Every method raises the errors of ``mlenv_sdk.errors``, whose texts are sentences.
    """

    def __init__(
        self,
        kubeconfig: str | os.PathLike[str] | None = None,
        namespace: str | None = None,
        context: str | None = None,
    ) -> None:
        self._transport = Transport(kubeconfig, context)
        self.namespace = namespace or self._transport.namespace

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()

    @property
    def costs(self) -> Costs:
        """What was spent, by anything; the bill of a job; and why it is what it is."""
        return Costs(self._transport, self.namespace)

    def budgets(self) -> tuple[Budget, ...]:
        """Every Budget of the cluster and how it stands, by name; as the operator last wrote it."""
        return read_budgets(self._items(BUDGETS_PATH, "the list of budgets", {}))

    def submit(self, job: TrainingJob | Mapping[str, Any], *, git: bool = False) -> TrainingJob:
        """Creates the job, and gives it as the server stored it.

        A mapping is sent as it is, so that the server judges every field of it: Rejected lists the causes.
        With `git` annotations say which commit the current folder is of, as far as git knows, for the job's
        W&B run. A service that submits for others has no use for that.
        """
        body = job.manifest() if isinstance(job, TrainingJob) else _manifest(job)
        body = worktree.recorded(body) if git else body
        metadata = body["metadata"]
        answer = self._transport.call(
            "POST",
            self._jobs(metadata.get("namespace")),
            what=_job(metadata.get("name") or "?"),
            query={"fieldValidation": "Strict", "fieldManager": "mlenv-sdk"},
            body=body,
        )
        return TrainingJob.from_server(answer)

    def get(self, name: str) -> TrainingJob:
        """The job of this name."""
        return TrainingJob.from_server(self._transport.call("GET", self._path(name), what=_job(name)))

    def list(self, *, all_namespaces: bool = False, labels: str | None = None) -> tuple[TrainingJob, ...]:
        """All jobs of the namespace (or of all), in the server's order; ``labels`` is a label selector."""
        path = f"/apis/{API_VERSION}/{TRAINING_JOBS}" if all_namespaces else self._jobs()
        query = {"labelSelector": labels} if labels else {}
        return tuple(TrainingJob.from_server(item) for item in self._items(path, "the list of jobs", query))

    def delete(self, name: str) -> None:
        """Deletes the job; its pods follow. Returns at once, see ``wait_deleted``."""
        self._transport.call(
            "DELETE", self._path(name), what=_job(name), query={"propagationPolicy": "Background"}
        )

    def suspend(self, name: str) -> TrainingJob:
        """Makes the job give up its pods; it can then be edited and resumed."""
        return self._set_suspend(name, value=True)

    def resume(self, name: str) -> TrainingJob:
        """Lets a suspended job run again, with its current spec and environment."""
        return self._set_suspend(name, value=False)

    def checkpoint(self, name: str, timeout: float | None = None) -> CheckpointRef:
        """Orders a checkpoint, and gives the first one that is sealed once the order is known.

        Raises Refused when nobody can obey, JobEnded when the job ends before, TimedOut after ``timeout``
        seconds: the order stands then.
        """
        job = self.get(name)
        if job.finished:
            raise JobEnded(f"{_sentence(job)} It takes no more checkpoints.")
        if job.spec.suspend:
            raise Refused(f'The job "{name}" is suspended: nothing runs that could take a checkpoint.')
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        self._patch(name, {"metadata": {"annotations": {ANNOTATION_CHECKPOINT: now}}})
        found = self.wait(name, lambda job: job.ordered is None or job.ordered.answered, timeout).ordered
        if found is None:
            raise Refused(f'The order for a checkpoint of the job "{name}" was taken back by somebody.')
        if found.sealed is None:
            raise Refused(f'The job "{name}" takes no checkpoint: {found.message}.')
        return found.sealed

    def wait(
        self,
        name: str,
        until: str | Callable[[TrainingJob], bool] | None = None,
        timeout: float | None = None,
    ) -> TrainingJob:
        """Waits for the job and gives it as it then is.

        ``until`` is the type of a condition (``"PodsReady"``), a predicate, or None for the end, good or bad.
        Raises TimedOut after ``timeout`` seconds, JobEnded when it ended otherwise, NotFound when deleted.
        """
        reached = _predicate(until)
        with closing(self.watch(name, timeout=timeout)) as jobs:
            for job in jobs:
                if reached(job):
                    return job
                if job.finished:
                    raise JobEnded(f"{_sentence(job)} It can no longer become {_wanted(until)}.")
        raise NotFound(f'The job "{name}" was deleted while it was waited for.')

    def wait_deleted(self, name: str, timeout: float | None = None) -> None:
        """Waits until no job of this name is there, or no longer the one that was there at first."""
        try:
            first = self.get(name).metadata.uid
            with closing(self.watch(name, timeout=timeout)) as jobs:
                for job in jobs:
                    if job.metadata.uid != first:
                        return
        except NotFound:
            return

    def watch(self, name: str, timeout: float | None = None) -> Generator[TrainingJob, None, None]:
        """The job as it is now, and again after every change; ends when it is deleted.

        Connections that break are made anew. Raises TimedOut after ``timeout`` seconds.
        """
        source = watching.Source(self._transport, self._jobs(), name, _job(name))
        for raw in watching.changes(source, timeout, time.monotonic, time.sleep):
            yield TrainingJob.from_server(raw)

    def pods(self, name: str) -> tuple[Pod, ...]:
        """The job's pods by index; for each index the newest last."""
        path = f"/api/v1/namespaces/{quote(self.namespace)}/pods"
        items = self._items(path, f"the pods of {_job(name)}", {"labelSelector": f"{LABEL_JOB}={name}"})
        return tuple(sorted(map(Pod.from_server, items), key=lambda pod: (pod.index, pod.incarnation)))

    def events(self, name: str) -> tuple[Event, ...]:
        """What was said of the job, oldest first."""
        path = f"/api/v1/namespaces/{quote(self.namespace)}/events"
        selector = f"involvedObject.kind={TRAINING_JOB},involvedObject.name={name}"
        items = self._items(path, f"the events of {_job(name)}", {"fieldSelector": selector})
        return tuple(sorted(map(Event.from_server, items), key=lambda event: (str(event.time), event.uid)))

    def logs(
        self, name: str, index: int = 0, *, follow: bool = False, tail: int | None = None
    ) -> Generator[str, None, None]:
        """Lines that the pod in slot ``index`` wrote, the last ``tail`` of them or all.

        With ``follow`` it waits for the pod, goes on with its replacements, and ends when the job has ended.
        """
        logs = PodLogs(self._transport, self.namespace, lambda: self._slot(name, index))
        if not follow:
            yield from logs.read(tail)
            return
        yield from logs.follow(tail, lambda: self.get(name).finished, time.sleep)

    def _slot(self, name: str, index: int) -> Pod:
        """The newest pod in this slot."""
        found = [pod for pod in self.pods(name) if pod.index == index]
        if found:
            return found[-1]
        job = self.get(name)
        if index >= job.spec.trainer.num_nodes:
            raise NotFound(
                f'The job "{name}" has {job.spec.trainer.num_nodes} pods, counted from 0: no {index}.'
            )
        raise NotFound(f'The job "{name}" has no pod {index} now; its phase is {job.phase}.')

    def _set_suspend(self, name: str, *, value: bool) -> TrainingJob:
        return self._patch(name, {"spec": {"suspend": value}})

    def _patch(self, name: str, body: Mapping[str, Any]) -> TrainingJob:
        answer = self._transport.call(
            "PATCH", self._path(name), what=_job(name), body=body, content_type=MERGE_PATCH
        )
        return TrainingJob.from_server(answer)

    def _items(self, path: str, what: str, query: Mapping[str, str]) -> Generator[dict[str, Any], None, None]:
        """All objects of a list, page by page."""
        more: dict[str, str] = {}
        while True:
            page = self._transport.call("GET", path, what=what, query={"limit": str(PAGE), **query, **more})
            yield from page.get("items") or ()
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return
            more = {"continue": token}

    def _jobs(self, namespace: str | None = None) -> str:
        return f"/apis/{API_VERSION}/namespaces/{quote(namespace or self.namespace)}/{TRAINING_JOBS}"

    def _path(self, name: str) -> str:
        return f"{self._jobs()}/{quote(name, safe='')}"


def _manifest(job: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping as a manifest, with the kind filled in; InvalidManifest when it is of another kind."""
    metadata = job.get("metadata")
    if not isinstance(metadata, Mapping):
        raise InvalidManifest('This is no TrainingJob: "metadata" with a "name" is missing.')
    if job.get("kind", TRAINING_JOB) != TRAINING_JOB:
        raise InvalidManifest(f'This is a {job["kind"]}, no TrainingJob: use "kubectl apply" for it.')
    if job.get("apiVersion", API_VERSION) != API_VERSION:
        raise InvalidManifest(f'The apiVersion "{job["apiVersion"]}" is not {API_VERSION}.')
    return {"apiVersion": API_VERSION, "kind": TRAINING_JOB, **job}


def _predicate(until: str | Callable[[TrainingJob], bool] | None) -> Callable[[TrainingJob], bool]:
    if until is None:
        return lambda job: job.finished
    if isinstance(until, str):
        return lambda job: job.holds(until)
    return until


def _wanted(until: str | Callable[[TrainingJob], bool] | None) -> str:
    return until if isinstance(until, str) else "what was waited for"


def _sentence(job: TrainingJob) -> str:
    """How the job ended."""
    return f'The job "{job.metadata.name}" is {job.phase}.'


def _job(name: str) -> str:
    return f'the job "{name}"'
