"""Who may speak to the operator, and what becomes of launchers that it does not understand.

Jobs of the environment `puppet` have pods without a launcher: the test speaks in its stead, with the pod's own
token or with one that it made up.
"""

# ruff: noqa: E501  (sentences stand whole, so that they can be searched for)

from __future__ import annotations

import base64
import http.client
import json
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from live import ENVIRONMENTS, PATIENCE, PODS, Job, Namespace, condition

from mlenv_api import names
from mlenv_api.protocol import BEAT_PATH, MAX_BEAT_BYTES
from mlenv_local import Cluster, platform
from mlenv_local.audit import AuditLog
from mlenv_local.shell import wait_until
from mlenv_local.tokens import mint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

Raw = dict[str, Any]
FLOOD = 2000
WAIT = ["/usr/bin/env", "sh", "-c", "trap 'exit 143' TERM; sleep 3600 & wait", "--"]
REFUSED = "the API server does not accept the token: it is forged, expired or of a deleted pod"


@dataclass(frozen=True)
class Speaker:
    """A pod for which the test speaks."""

    cluster: Cluster
    namespace: str
    account_uid: str
    pod: str
    uid: str

    def token(self, *, audience: str = names.TOKEN_AUDIENCE) -> str:
        """A genuine one, as the kubelet would get it."""
        bound = (
            "--bound-object-kind=Pod",
            f"--bound-object-name={self.pod}",
            f"--bound-object-uid={self.uid}",
        )
        where = ("-n", self.namespace, f"--audience={audience}")
        return self.cluster.kubectl("create", "token", "default", *where, *bound).strip()

    def minted(self, key: bytes | None = None, *, audience: str = names.TOKEN_AUDIENCE, **more: Any) -> str:
        """One that was made with the cluster's signing key, or with another."""
        return mint(
            key or self.cluster.sa_signing_key.read_bytes(),
            namespace=self.namespace,
            service_account="default",
            service_account_uid=self.account_uid,
            pod=self.pod,
            pod_uid=self.uid,
            audience=audience,
            **more,
        )


class Endpoint:
    """Where the leading operator listens."""

    def __init__(self, cluster: Cluster) -> None:
        lease = cluster.kubectl.get("lease", names.LEASE_NAME, "-n", platform.NAMESPACE)
        url = urlsplit(lease["metadata"]["annotations"][names.ANNOTATION_ADDRESS])
        self._connection = http.client.HTTPConnection(str(url.hostname), url.port, timeout=30)

    def post(self, token: str | None, body: bytes) -> tuple[int, Raw]:
        """One beat; the status, and what was said."""
        headers = {"Content-Type": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        self._connection.request("POST", BEAT_PATH, body, headers)
        reply = self._connection.getresponse()
        text = reply.read()
        if reply.will_close:
            self._connection.close()
        return reply.status, json.loads(text) if text.startswith(b"{") else {"message": text.decode()}

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def beat(**changes: Any) -> bytes:
    said = {"protocol": 1, "attempt": 0, "phase": "Waiting", "time": datetime.now(UTC).isoformat()}
    return json.dumps({**said, **changes}).encode()


@pytest.fixture(scope="module")
def space(installed: Cluster) -> Iterator[Namespace]:
    made = Namespace(installed, f"launch-{secrets.token_hex(3)}")
    shape = installed.kubectl.get(names.CLUSTER_ENVIRONMENTS, platform.ENVIRONMENT)["spec"]
    puppet = {
        "apiVersion": names.API_VERSION,
        "kind": names.ENVIRONMENT,
        "metadata": {"name": "puppet"},
        "spec": {**shape, "launcherCommand": WAIT},
    }
    made.api.create(ENVIRONMENTS.format(made.name), puppet)
    yield made
    made.close()


@pytest.fixture(scope="module")
def pods(space: Namespace) -> dict[str, Speaker]:
    """Running pods of one job each, and one that is of no job."""
    for name in ("speaker", "victim", "doomed"):
        where = {"kind": names.ENVIRONMENT, "name": "puppet"}
        space.submit(name, launcher="MLEnv", environmentRef=where, trainer={"command": ["train.py"]})
    container = {"name": "c", "image": "mlenv.io/absent:1", "imagePullPolicy": "Never"}
    stranger = {
        "metadata": {"name": "stranger"},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
    }
    space.api.create(PODS.format(space.name), stranger)
    wanted = {
        "speaker": "speaker-0-0",
        "victim": "victim-0-0",
        "doomed": "doomed-0-0",
        "stranger": "stranger",
    }

    def run(found: dict[str, Raw]) -> bool:
        ours = [found.get(pod, {}) for name, pod in wanted.items() if name != "stranger"]
        return all((pod.get("status") or {}).get("phase") == "Running" for pod in ours)

    assert space.all_pods.wait(run, PATIENCE), [one["status"] for one in space.all_pods.all()]
    uids = {one["metadata"]["name"]: one["metadata"]["uid"] for one in space.all_pods.all()}
    account = space.api.get(f"/api/v1/namespaces/{space.name}/serviceaccounts/default")["metadata"]["uid"]
    return {name: Speaker(space.cluster, space.name, account, pod, uids[pod]) for name, pod in wanted.items()}


@pytest.fixture(scope="module")
def log(pods: dict[str, Speaker]) -> AuditLog:
    return AuditLog(pods["victim"].cluster.audit_log)


@pytest.fixture
def operator(installed: Cluster) -> Iterator[Endpoint]:
    made = Endpoint(installed)
    yield made
    made.close()


def another_key() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


def without_signature(token: str) -> str:
    head = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0"  # {"alg":"none","typ":"JWT"}
    return f"{head}.{token.split('.')[1]}."


Tokens = dict[str, tuple["Callable[[dict[str, Speaker]], str | None]", int, str]]
BAD_TOKENS: Tokens = {
    "none": (lambda _: None, 401, "the header Authorization: Bearer <token> is missing"),
    "garbage": (lambda _: "garbage", 401, "not a service-account token"),
    "of another key": (lambda pods: pods["victim"].minted(another_key()), 401, REFUSED),
    "without a signature": (lambda pods: without_signature(pods["victim"].token()), 401, REFUSED),
    "expired": (lambda pods: pods["victim"].minted(lifetime_s=-60), 401, REFUSED),
    "for somebody else": (lambda pods: pods["victim"].token(audience="elsewhere"), 401, REFUSED),
    "of one pod with the UID of another": (
        lambda pods: replace(pods["speaker"], uid=pods["victim"].uid).minted(),
        401,
        REFUSED,
    ),
    "of a pod that never was": (
        lambda pods: replace(pods["victim"], uid="00000000-0000-4000-8000-000000000000").minted(),
        403,
        "the token claims a pod that is not a live pod of a TrainingJob",
    ),
    "of a pod of no job": (
        lambda pods: pods["stranger"].token(),
        403,
        "the token claims a pod that is not a live pod of a TrainingJob",
    ),
    "of no pod": (
        lambda pods: (
            pods["victim"]
            .cluster.kubectl(
                "create",
                "token",
                "default",
                "-n",
                pods["victim"].namespace,
                f"--audience={names.TOKEN_AUDIENCE}",
            )
            .strip()
        ),
        401,
        "the token is not bound to a pod",
    ),
}


@pytest.mark.parametrize("token", BAD_TOKENS)
def test_a_token_that_proves_nothing_is_refused_with_a_sentence(
    pods: dict[str, Speaker], operator: Endpoint, token: str
) -> None:
    make, status, sentence = BAD_TOKENS[token]
    assert operator.post(make(pods), beat()) == (status, {"message": sentence})


def test_a_genuine_token_minted_with_the_clusters_key_is_accepted(
    pods: dict[str, Speaker], operator: Endpoint
) -> None:
    """So that the refusals above are for the reason that they give."""
    status, answer = operator.post(pods["speaker"].minted(), beat(protocol=0))
    assert status == 200, answer


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (b"x" * (MAX_BEAT_BYTES + 1), 413, f"a beat has at most {MAX_BEAT_BYTES} bytes"),
        (b"{", 400, "not a beat: body: Invalid JSON: EOF while parsing an object at line 1 column 1"),
        (b"{}", 400, "not a beat: protocol: Field required"),
        (beat(phase="Dancing"), 400, "not a beat: phase: Input should be "),
    ],
)
def test_a_body_that_is_no_beat_is_refused_with_a_sentence(
    pods: dict[str, Speaker], operator: Endpoint, body: bytes, status: int, sentence: str
) -> None:
    said, answer = operator.post(genuine(pods["speaker"]), body)
    assert said == status
    assert answer["message"].startswith(sentence)


@cache
def genuine(speaker: Speaker) -> str:
    """One token a pod, as in life."""
    return speaker.token()


@pytest.mark.parametrize(
    ("protocol", "sentence"),
    [
        (
            0,
            "speaks protocol 0, and this operator needs 1 or newer: use an image with a newer mlenv, or launcher: None",
        ),
        (
            999,
            "speaks protocol 999, and this operator at most 1: upgrade the operator, use an image with an older mlenv, or launcher: None",
        ),
    ],
)
def test_a_launcher_of_an_unknown_protocol_is_treated_as_none_and_told_so(
    space: Namespace, pods: dict[str, Speaker], operator: Endpoint, protocol: int, sentence: str
) -> None:
    status, answer = operator.post(genuine(pods["speaker"]), beat(protocol=protocol, port=29500))
    assert (status, answer["attempt"], answer.get("world")) == (200, 0, None)
    assert answer["message"] == f"this launcher {sentence}"
    wanted = f"the launcher in pod speaker-0-0 {sentence}"

    def told(status: Raw) -> bool:
        return condition(status, "LauncherConnected").get("message") == wanted

    found = Job(space, "speaker").until(told, "word of the protocol")
    connected = condition(found, "LauncherConnected")
    assert (connected["status"], connected["reason"]) == ("False", "ProtocolUnsupported")
    assert found["phase"] == "Assembling"


def test_a_pod_speaks_for_itself_alone(
    space: Namespace, pods: dict[str, Speaker], operator: Endpoint
) -> None:
    claims = {"pod": "victim-0-0", "podUid": pods["victim"].uid, "job": "victim", "namespace": space.name}
    token = genuine(pods["speaker"])
    status, answer = operator.post(token, beat(port=29500, **claims))
    assert status == 200, answer
    Job(space, "speaker").until_phase("Running")
    victim = Job(space, "victim").status()
    assert victim["phase"] == "Assembling"
    assert condition(victim, "LauncherConnected")["status"] != "True"
    failed = {"attempt": 1, "rank": 0, "localRank": 0, "exitCode": 9, "sequence": 1}
    evidence = [{**failed, "time": datetime.now(UTC).isoformat()}]
    assert operator.post(token, beat(attempt=1, phase="Failed", evidence=evidence, **claims))[0] == 200
    Job(space, "speaker").until(lambda status: status["attempt"]["number"] == 2, "second attempt")
    assert Job(space, "victim").status()["attempt"]["number"] == 1


def test_a_token_dies_with_its_pod(space: Namespace, pods: dict[str, Speaker], operator: Endpoint) -> None:
    token = genuine(pods["doomed"])
    assert operator.post(token, beat(protocol=0))[0] == 200
    doomed = Job(space, "doomed")
    doomed.delete()
    doomed.until_gone()
    said = "the token claims a pod that is not a live pod of a TrainingJob"
    also = "pod doomed-0-0 is not a live pod of a TrainingJob"
    answers: list[tuple[int, Raw]] = []

    def refused() -> bool:  # its watch of pods may be a little later than ours
        answers.append(operator.post(token, beat()))
        return answers[-1][0] != 200

    assert wait_until(refused, seconds=PATIENCE)
    status, answer = answers[-1]
    assert status == 403
    assert answer["message"] in (said, also)


def test_a_flood_of_forged_tokens_reaches_neither_others_nor_the_api_server(
    installed: Cluster, pods: dict[str, Speaker], operator: Endpoint
) -> None:
    token = genuine(pods["speaker"])
    assert operator.post(token, beat())[0] == 200
    forged = [forge(pods["victim"], number) for number in range(FLOOD)]
    log = AuditLog(installed.audit_log)

    def flood(line: Endpoint, some: list[str]) -> list[int]:
        try:
            return [line.post(one, beat())[0] for one in some]
        finally:
            line.close()

    heard, lines = 0, [Endpoint(installed) for _ in range(8)]
    with ThreadPoolExecutor(len(lines)) as pool:
        floods = [pool.submit(flood, line, forged[part :: len(lines)]) for part, line in enumerate(lines)]
        while not all(one.done() for one in floods):
            assert operator.post(token, beat())[0] == 200
            heard += 1
    assert {status for one in floods for status in one.result()} <= {401, 403, 503}
    assert heard >= 3, "the true one waited"
    reviews = [one for one in log.writes() if one.resource == "tokenreviews"]
    assert len(reviews) < FLOOD / 20, f"{len(reviews)} reviews of {FLOOD} forged tokens"


def forge(victim: Speaker, number: int) -> str:
    """Half claim a pod that lives, half one that does not; each is another token, and none is signed."""
    uid = victim.uid if number % 2 else f"{number:08x}-0000-4000-8000-000000000000"
    claims = {"exp": time.time() + 600, "kubernetes.io": {"pod": {"name": victim.pod, "uid": uid}}}
    parts = (json.dumps({"alg": "RS256"}), json.dumps(claims), secrets.token_hex(128))
    return ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)


def test_no_token_is_in_the_operators_log(installed: Cluster, pods: dict[str, Speaker]) -> None:
    selector = ("-n", platform.NAMESPACE, "-l", "app.kubernetes.io/component=operator")
    logs = installed.kubectl("logs", *selector, "--tail=-1")
    assert "eyJhbGciOi" not in logs
    for speaker in pods.values():
        if speaker.pod != "stranger":
            assert genuine(speaker).rsplit(".", 1)[-1][:24] not in logs
