"""A real cluster as tests see it: its API server, what is watched there, and jobs in one namespace."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
import tempfile
import threading
import time
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import yaml

from mlenv_api import names
from mlenv_local import LocalError
from mlenv_local.shell import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mlenv_local import Cluster

Raw = dict[str, Any]
JOBS = f"/apis/{names.API_VERSION}/namespaces/{{}}/{names.TRAINING_JOBS}"
ENVIRONMENTS = f"/apis/{names.API_VERSION}/namespaces/{{}}/{names.ENVIRONMENTS}"
PODS = "/api/v1/namespaces/{}/pods"
SERVICES = "/api/v1/namespaces/{}/services"
MERGE = "application/merge-patch+json"
PATIENCE = 300.0
"""Seconds. Nobody waits for so long unless something is wrong, or the machine is very busy."""
SLEEP = ["sh", "-c", "trap 'exit 143' TERM; sleep 3600 & wait"]
"""A program that goes on until it is told to stop, and then does so at once."""


class RefusedError(Exception):
    """What the API server answered instead of doing it."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class Api:
    """The administrator's view of the API server: one request on one connection, and watches."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        url = urlsplit(config["clusters"][0]["cluster"]["server"])
        self._host, self._port = str(url.hostname), int(url.port or 443)
        authority = base64.b64decode(config["clusters"][0]["cluster"]["certificate-authority-data"])
        self._tls = ssl.create_default_context(cadata=authority.decode())
        user = config["users"][0]["user"]
        parts = [base64.b64decode(user[f"client-{what}-data"]) for what in ("certificate", "key")]
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"\n".join(parts))
            file.flush()
            self._tls.load_cert_chain(file.name)

    def call(self, method: str, path: str, body: Raw | None = None, kind: str = "application/json") -> Raw:
        """One request; RefusedError for what is not a success."""
        answer: Raw = json.loads(self.text(method, path, body, kind))
        return answer

    def text(self, method: str, path: str, body: Raw | None = None, kind: str = "application/json") -> str:
        """The same for answers that are not JSON."""
        connection = self._connect(60)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": kind})
            reply = connection.getresponse()
            text = reply.read().decode()
        finally:
            connection.close()
        if reply.status >= 300:
            with suppress(ValueError, KeyError):
                raise RefusedError(reply.status, json.loads(text)["message"])
            raise RefusedError(reply.status, text)
        return text

    def get(self, path: str) -> Raw:
        """One object, or a list."""
        return self.call("GET", path)

    def create(self, path: str, body: Raw) -> Raw:
        """POST."""
        return self.call("POST", path, body)

    def patch(self, path: str, body: Raw) -> Raw:
        """Merge."""
        return self.call("PATCH", path, body, MERGE)

    def delete(self, path: str) -> None:
        """With whatever grace the object has; what is gone already is fine."""
        try:
            self.call("DELETE", path, {"kind": "DeleteOptions", "apiVersion": "v1"})
        except RefusedError as error:
            if error.code != 404:
                raise

    def watch(self, path: str, version: str) -> Stream:
        """What changes after this version."""
        connection = self._connect(None)
        connection.request("GET", f"{path}?watch=1&resourceVersion={version}&timeoutSeconds=3600")
        reply = connection.getresponse()
        if reply.status != 200:
            raise RefusedError(reply.status, reply.read().decode())
        return Stream(connection, reply)

    def _connect(self, timeout: float | None) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=self._tls)


class Stream:
    """The events of a watch; `close` from another thread ends it."""

    def __init__(self, connection: http.client.HTTPSConnection, reply: http.client.HTTPResponse) -> None:
        self._connection, self._reply = connection, reply
        self._socket = connection.sock

    def __iter__(self) -> Iterator[Raw]:
        waiting = b""
        try:
            while chunk := self._reply.read1(65536):
                *lines, waiting = (waiting + chunk).split(b"\n")
                yield from (json.loads(line) for line in lines if line)
        finally:
            self._connection.close()

    def close(self) -> None:
        """Wake up whoever reads."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


class Watched:
    """All objects of one collection as they are now, and whoever waits for them to change."""

    def __init__(self, api: Api, path: str, seen: Callable[[Raw], object] | None = None) -> None:
        self._api, self._path = api, path
        self._seen = seen or (lambda _: None)
        self._objects: dict[str, Raw] = {}
        self._news = threading.Condition()
        self._stop = threading.Event()
        self._stream: Stream | None = None
        self._thread = threading.Thread(target=self._follow, name=f"watch {path}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Watch no more."""
        self._stop.set()
        if self._stream is not None:
            self._stream.close()
        self._thread.join(20)

    def all(self) -> list[Raw]:
        """Every object."""
        with self._news:
            return list(self._objects.values())

    def wait(self, holds: Callable[[dict[str, Raw]], Any], seconds: float) -> Any:
        """Whatever is true of the objects by name, once it is; the last answer when that takes too long."""
        deadline = time.monotonic() + seconds
        with self._news:
            while not (found := holds(self._objects)) and time.monotonic() < deadline:
                self._news.wait(max(0.01, deadline - time.monotonic()))
            return found

    def _follow(self) -> None:
        while not self._stop.is_set():
            with suppress(OSError, http.client.HTTPException, RefusedError):
                self._follow_once()
            self._stop.wait(0.2)

    def _follow_once(self) -> None:
        listed = self._api.get(self._path)
        self._set({one["metadata"]["name"]: one for one in listed["items"]})
        self._stream = self._api.watch(self._path, listed["metadata"]["resourceVersion"])
        if self._stop.is_set():  # closed before there was a stream to close
            return
        for event in self._stream:
            if event["type"] == "ERROR":
                return
            self._change(event["object"]["metadata"]["name"], event)

    def _set(self, objects: dict[str, Raw]) -> None:
        for one in objects.values():
            self._seen(one)
        with self._news:
            self._objects = objects
            self._news.notify_all()

    def _change(self, name: str, event: Raw) -> None:
        self._seen(event["object"])
        with self._news:
            if event["type"] == "DELETED":
                self._objects.pop(name, None)
            else:
                self._objects[name] = event["object"]
            self._news.notify_all()


class Namespace:
    """One namespace with its jobs and pods watched; close it to delete it with all that is in it."""

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        *,
        security: str = "privileged",
        seen: Callable[[Raw], object] | None = None,
    ) -> None:
        """`seen` is called with every state of every job that the API server tells of."""
        self.cluster, self.name = cluster, name
        self.api = Api(cluster.kubeconfig)
        labels = {"pod-security.kubernetes.io/enforce": security}
        self.api.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
        account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        assert wait_until(lambda: self._has(account), seconds=PATIENCE), f"{name} gets no account for pods"
        self.jobs = Watched(self.api, JOBS.format(name), seen)
        self.all_pods = Watched(self.api, PODS.format(name))

    def close(self) -> None:
        """Delete it, and see it go: nothing may hold it.

        Its jobs first: who finds pods in a namespace waits for half of their grace before anything else goes.
        """
        self.api.delete(JOBS.format(self.name))
        self.all_pods.wait(lambda pods: not any(_of_a_job(one) for one in pods.values()), PATIENCE)
        self.api.delete(f"/api/v1/namespaces/{self.name}")
        left = self.jobs.wait(lambda jobs: not jobs, PATIENCE) and self.all_pods.wait(
            lambda pods: not pods, PATIENCE
        )
        self.jobs.close()
        self.all_pods.close()
        assert left, f"namespace {self.name} is held by pods or jobs"

    def _has(self, path: str) -> bool:
        try:
            self.api.get(path)
        except RefusedError as error:
            if error.code != 404:
                raise
            return False
        return True

    def submit(self, name: str, **spec: Any) -> Job:
        """Create a job in the environment of this machine; `trainer` holds what is not of the spec itself."""
        full = {"environmentRef": {"name": "local"}, "launcher": "None", **spec}
        full = {key: value for key, value in full.items() if value is not None}
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.TRAINING_JOB,
            "metadata": {"name": name, "namespace": self.name},
            "spec": full,
        }
        self.api.create(JOBS.format(self.name), body)
        return Job(self, name)

    def sleeper(self, name: str, nodes: int = 1, **spec: Any) -> Job:
        """Create a job that runs until it is ended."""
        return self.submit(name, **{"trainer": {"command": SLEEP, "numNodes": nodes}, **spec})

    def service_names(self) -> set[str]:
        """The Services that are there."""
        return {one["metadata"]["name"] for one in self.api.get(SERVICES.format(self.name))["items"]}


class Job:
    """One job, by name."""

    def __init__(self, namespace: Namespace, name: str) -> None:
        self.namespace, self.name = namespace, name
        self.path = f"{JOBS.format(namespace.name)}/{name}"

    @cached_property
    def uid(self) -> str:
        """Its UID."""
        return str(self.namespace.api.get(self.path)["metadata"]["uid"])

    def now(self) -> Raw:
        """As it is stored."""
        return self.namespace.api.get(self.path)

    def status(self) -> Raw:
        """Its status as it is stored."""
        found: Raw = self.now().get("status") or {}
        return found

    def edit(self, **spec: Any) -> int:
        """Merge into the spec; the generation that this made."""
        return int(self.namespace.api.patch(self.path, {"spec": spec})["metadata"]["generation"])

    def delete(self) -> None:
        """As kubectl delete --wait=false."""
        self.namespace.api.delete(self.path)

    def until(self, holds: Callable[[Raw], Any], what: str, seconds: float = PATIENCE) -> Raw:
        """Its status, once this holds of it."""

        def look(jobs: dict[str, Raw]) -> Raw | None:
            status = (jobs.get(self.name) or {}).get("status") or {}
            return status if status.get("phase") and holds(status) else None

        found: Raw | None = self.namespace.jobs.wait(look, seconds)
        assert found, f"{self.name}: no {what} within {seconds:.0f} s\n{self.describe()}"
        return found

    def until_phase(self, phase: str, seconds: float = PATIENCE) -> Raw:
        """Its status, once it is in this phase."""
        return self.until(lambda status: status.get("phase") == phase, f"phase {phase}", seconds)

    def until_seen(self, generation: int, seconds: float = PATIENCE) -> Raw:
        """Its status, once the operator has looked at this generation."""
        return self.until(
            lambda status: status["observedGeneration"] >= generation, f"generation {generation}", seconds
        )

    def until_says(self, type_: str, status: str, reason: str, seconds: float = PATIENCE) -> str:
        """The message of a condition, once it has this status and reason."""

        def holds(seen: Raw) -> bool:
            found = condition(seen, type_)
            return (found.get("status"), found.get("reason")) == (status, reason)

        return str(condition(self.until(holds, f"{type_}={status} {reason}", seconds), type_)["message"])

    def until_gone(self, seconds: float = PATIENCE) -> None:
        """Neither job nor pods nor Service are left."""
        gone = self.namespace.jobs.wait(lambda jobs: self.name not in jobs, seconds)
        assert gone, f"{self.name} is still there\n{self.describe()}"
        self.until_pods(lambda pods: not pods, "end of all pods", seconds)
        deadline = time.monotonic() + seconds
        while self.name in self.namespace.service_names():
            assert time.monotonic() < deadline, f"Service {self.name} is still there"
            self.namespace.all_pods.wait(lambda _: False, 0.5)

    def pods(self) -> list[Raw]:
        """Its pods as they are stored, by slot and incarnation.

        Not as watched: the watches of jobs and pods are not in step, so a status may tell of the end of a pod
        before the other watch does.
        """
        label = quote(f"{names.LABEL_JOB}={self.name}")
        return self._of(
            self.namespace.api.get(f"{PODS.format(self.namespace.name)}?labelSelector={label}")["items"]
        )

    def until_pods(
        self, holds: Callable[[list[Raw]], Any], what: str, seconds: float = PATIENCE
    ) -> list[Raw]:
        """Its pods, once this holds of them."""
        found = self.namespace.all_pods.wait(
            lambda pods: (
                (mine := self._of(pods.values()), bool(holds(mine)))
                if holds(self._of(pods.values()))
                else None
            ),
            seconds,
        )
        assert found, f"{self.name}: no {what} within {seconds:.0f} s\n{self.describe()}"
        mine: list[Raw] = found[0]
        return mine

    def uids(self) -> dict[str, str]:
        """UIDs of its pods, by name."""
        return {one["metadata"]["name"]: one["metadata"]["uid"] for one in self.pods()}

    def logs(self, pod: str) -> str:
        """What a pod has printed."""
        return self.namespace.api.text("GET", f"{PODS.format(self.namespace.name)}/{pod}/log")

    def describe(self) -> str:
        """What a person would look at: describe, pods and their last lines."""
        kubectl, place = self.namespace.cluster.kubectl, f"--namespace={self.namespace.name}"
        label = f"{names.LABEL_JOB}={self.name}"
        commands = (
            ("describe", "tj", self.name, place),
            ("get", "pods", "-o", "wide", place, "-l", label),
            ("logs", place, "-l", label, "--tail=20", "--prefix", "--ignore-errors"),
        )
        return "\n".join(_try(kubectl, command) for command in commands)

    def _of(self, pods: Any) -> list[Raw]:
        mine = [one for one in pods if one["metadata"].get("labels", {}).get(names.LABEL_JOB) == self.name]
        return sorted(mine, key=lambda one: str(one["metadata"]["name"]))


def _of_a_job(pod: Raw) -> bool:
    return names.LABEL_JOB in pod["metadata"].get("labels", {})


def condition(status: Raw, type_: str) -> Raw:
    """The condition of a type; empty when there is none."""
    return next((one for one in status.get("conditions", ()) if one["type"] == type_), {})


def _try(kubectl: Callable[..., str], command: tuple[str, ...]) -> str:
    try:
        return f"$ kubectl {' '.join(command)}\n{kubectl(*command)}"
    except LocalError as error:
        return str(error)
