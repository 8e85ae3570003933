"""What people get wrong, and what they must be told.

An ellipsis stands for words of the kubelet, the container runtime or the scheduler, `{ns}` for the namespace.
"""

# ruff: noqa: E501  (sentences stand whole, so that they can be searched for)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlenv_api import names

Raw = dict[str, Any]
ABSENT = "mlenv.io/absent:1"
PRINT_100_MB = "for n in range(1600): print(('%d ' % n).ljust(64, 'x') * 1000)"
PRINT_ONE_LINE = "import sys; [sys.stderr.write('y' * 1000000) for _ in range(30)]; sys.exit(3)"
IGNORE_SIGTERM = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"


def manifest(name: str, namespace: str, made: Raw) -> Raw:
    metadata = {"name": name, "namespace": namespace}
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.TRAINING_JOB,
        "metadata": metadata,
        "spec": made,
    }


def spec(*command: str, launcher: str = "None", pod: Raw | None = None, **changes: Any) -> Raw:
    """A job that would run, with changes of the trainer, or of the spec when they are named so."""
    trainer = {"command": list(command or ("true",))}
    made: Raw = {"environmentRef": {"name": "local"}, "launcher": launcher, "trainer": trainer}
    if pod is not None:
        made["podTemplateOverrides"] = {"spec": pod}
    for key, value in changes.items():
        where = made if key in ("environmentRef", "failurePolicy", "scheduling") else trainer
        where[key] = value
    return made


def python(program: str, **changes: Any) -> Raw:
    return spec("python", "-c", program, launcher="MLEnv", **changes)


def environment(name: str) -> Raw:
    return {"kind": names.ENVIRONMENT, "name": name}


def key_of(kind: str) -> list[Raw]:
    return [{"name": "WANTED", "valueFrom": {kind: {"name": "nowhere", "key": "k"}}}]


def mounted(source: Raw) -> Raw:
    mounts = [{"name": "data", "mountPath": "/data"}]
    return {"volumes": [{"name": "data", **source}], "volumeMounts": mounts}


@dataclass(frozen=True)
class Tells:
    """What a job must say, in one of its conditions that holds or does not."""

    spec: Raw
    condition: str
    reason: str
    sentence: str


def stalled(made: Raw, reason: str, sentence: str) -> Tells:
    return Tells(made, "Stalled=True", reason, sentence)


def waiting(made: Raw, reason: str, sentence: str) -> Tells:
    return Tells(made, "PodsReady=False", reason, sentence)


def failed(made: Raw, reason: str, sentence: str) -> Tells:
    return Tells(made, "Failed=True", reason, sentence)


RELEASED = "all pods are released after 1800 s"
CHECK_IMAGE = f"Check the image's name, and imagePullSecrets if its registry is private; {RELEASED}"
LOAD_IMAGE = f"Load the image into every node, or set imagePullPolicy to IfNotPresent; {RELEASED}"
NEVER = 'Container image "mlenv.io/absent:1" is not present with pull policy of Never'
CREATE = f"Create what is missing in namespace {{ns}}, or correct the job; {RELEASED}"
CHECK_COMMAND = "Check spec.trainer.command, and that the image contains it"
OUT_OF_THE_WAY = "Delete or rename what is in the way, or create the job under another name"
CORRECT = "Suspend the job, correct what is named, and resume it; or create what is missing"

TELLS = {
    "no-environment": stalled(
        spec(environmentRef=environment("nowhere")),
        "EnvironmentNotFound",
        "TrainingEnvironment nowhere does not exist in namespace {ns}. Create it, or name another one in spec.environmentRef of a new job",
    ),
    "no-cluster-environment": stalled(
        spec(environmentRef={"name": "nowhere"}),
        "EnvironmentNotFound",
        "ClusterTrainingEnvironment nowhere does not exist. Create it, or name another one in spec.environmentRef of a new job",
    ),
    "hollow-environment": waiting(
        spec(environmentRef=environment("hollow")),
        "ImagePullFailed",
        f"the image of pod hollow-environment-0-0 cannot be pulled: {NEVER}. {LOAD_IMAGE}",
    ),
    "no-such-image": waiting(
        spec(image="localhost:1/none:1", imagePullPolicy="Always"),
        "ImagePullFailed",
        f'the image of pod no-such-image-0-0 cannot be pulled: failed to pull and unpack image "localhost:1/none:1": …connection refused. {CHECK_IMAGE}',
    ),
    "never-pulled": waiting(
        spec(image=ABSENT, imagePullPolicy="Never"),
        "ImagePullFailed",
        f"the image of pod never-pulled-0-0 cannot be pulled: {NEVER}. {LOAD_IMAGE}",
    ),
    "no-image-name": waiting(
        spec(image="No Image!"),
        "ImagePullFailed",
        f"the image of pod no-image-name-0-0 cannot be pulled: …invalid reference format…. {CHECK_IMAGE}",
    ),
    "no-command": failed(
        spec("/no/such/program"),
        "CommandNotFound",
        f'the program cannot be started in pod no-command-0-0 on node …: exec: "/no/such/program": stat /no/such/program: no such file or directory. {CHECK_COMMAND}',
    ),
    "no-command-mlenv": failed(
        spec("no-such-program", launcher="MLEnv"),
        "CommandNotFound",
        f"the program cannot be started in pod no-command-mlenv-0-0 on node …: no-such-program: command not found (…). {CHECK_COMMAND}",
    ),
    "no-script": failed(
        spec("absent.py", launcher="MLEnv"),
        "CommandNotFound",
        f"the program cannot be started in pod no-script-0-0 on node …: absent.py: no such file in /. {CHECK_COMMAND}",
    ),
    "no-launcher": failed(
        spec("train.py", launcher="MLEnv", environmentRef=environment("bare")),
        "CommandNotFound",
        'the launcher cannot be started in pod no-launcher-0-0 on node …: exec: "python9": executable file not found in $PATH. Use an image that contains Python and mlenv, correct launcherCommand of the environment, or use launcher: None',
    ),
    "no-mlenv": failed(
        spec(
            "train.py",
            launcher="MLEnv",
            environmentRef=environment("plain"),
            failurePolicy={"maxRestarts": 0},
        ),
        "MaxRestartsExceeded",
        "the launcher of pod no-mlenv-0-0 on node … ended with exit code 1 before the world was formed: …No module named mlenv. See: kubectl logs -n {ns} no-mlenv-0-0",
    ),
    "no-secret": waiting(
        spec(env=key_of("secretKeyRef")),
        "ContainerConfigError",
        f'the container of pod no-secret-0-0 cannot be made: secret "nowhere" not found. {CREATE}',
    ),
    "no-config-map": waiting(
        spec(env=key_of("configMapKeyRef")),
        "ContainerConfigError",
        f'the container of pod no-config-map-0-0 cannot be made: configmap "nowhere" not found. {CREATE}',
    ),
    "too-big": waiting(
        spec(resourcesPerNode={"limits": {"cpu": "4000"}}),
        "Unschedulable",
        f"1 of 1 pod cannot be scheduled: …Insufficient cpu…. Ask for less per node in spec.trainer.resourcesPerNode, or free capacity; {RELEASED}",
    ),
    "no-such-node": waiting(
        spec(pod={"nodeSelector": {"made-of": "gold"}}),
        "Unschedulable",
        f"1 of 1 pod cannot be scheduled: …didn't match Pod's node affinity/selector…. Change nodeSelector or affinity in spec.podTemplateOverrides or the environment, or label a node; {RELEASED}",
    ),
    "no-such-claim": waiting(
        spec(pod=mounted({"persistentVolumeClaim": {"claimName": "nowhere"}})),
        "Unschedulable",
        f'1 of 1 pod cannot be scheduled: …persistentvolumeclaim "nowhere" not found…. Create what is missing, or name another claim in spec.podTemplateOverrides or spec.checkpoint.spool; {RELEASED}',
    ),
    "no-such-folder": waiting(
        spec(pod=mounted({"hostPath": {"path": "/nowhere", "type": "Directory"}})),
        "WaitingForPods",
        "0 of 1 pod ready; node … has been preparing pod no-such-folder-0-0 for more than 60 s: its image is being pulled, or a volume is missing. See: kubectl describe pod -n {ns} no-such-folder-0-0",
    ),
    "no-such-volume": stalled(
        spec(pod={"volumeMounts": [{"name": "nowhere", "mountPath": "/data"}]}),
        "PodRejected",
        f'Pod no-such-volume-0-0 was refused: Pod "no-such-volume-0-0" is invalid: spec.containers[0].volumeMounts[…].name: Not found: "nowhere". {CORRECT}',
    ),
    "no-such-field": stalled(
        spec(pod={"affinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}}),
        "PodRejected",
        f'Pod no-such-field-0-0 was refused: Pod in version "v1" cannot be handled as a Pod: strict decoding error: unknown field "spec.affinity.requiredDuringSchedulingIgnoredDuringExecution". {CORRECT}',
    ),
    "no-such-account": waiting(
        spec(pod={"serviceAccountName": "nobody"}),
        "ServiceAccountNotFound",
        'Pod no-such-account-0-0 was refused: pods "no-such-account-0-0" is forbidden: error looking up service account {ns}/nobody: serviceaccount "nobody" not found. A new namespace gets its own in a moment; create any other, or name one that exists',
    ),
    "million-characters": stalled(
        spec(env=[{"name": f"V{n}", "value": "x" * 32_768} for n in range(31)]),
        "InvalidSpec",
        "command, arguments and environment have 1015812 bytes together, more than 262144; move big values into a ConfigMap or a file of the image",
    ),
    "foreign-pod": stalled(
        spec(),
        "NameConflict",
        f'Pod foreign-pod-0-0 is not ours: pods "foreign-pod-0-0" already exists. {OUT_OF_THE_WAY}',
    ),
    "foreign-service": stalled(
        spec(numNodes=2),
        "NameConflict",
        f'Service foreign-service is not ours: services "foreign-service" already exists. {OUT_OF_THE_WAY}',
    ),
    "one-line": failed(
        python(PRINT_ONE_LINE, failurePolicy={"maxRestarts": 0}),
        "MaxRestartsExceeded",
        "rank 0 in pod one-line-0-0 on node … ended with exit code 3: yyyy…. See: kubectl logs -n {ns} one-line-0-0",
    ),
}
LIVE = {
    "good": spec("sleep", "100", launcher="MLEnv", numNodes=2),
    "twin": spec("sleep", "1"),
    "printer": python(PRINT_100_MB),
    "deaf": python(IGNORE_SIGTERM, pod={"terminationGracePeriodSeconds": 8}),
    "crashes": spec("false", failurePolicy={"maxRestarts": 1000}),
    "crashes-mlenv": spec("false", launcher="MLEnv", failurePolicy={"maxRestarts": 1000}),
    "late-environment": spec(environmentRef=environment("late")),
    "pushed-aside": spec(),
}
MOVED = frozenset({"good", "twin", "printer", "crashes", "crashes-mlenv", "late-environment", "pushed-aside"})
"""Jobs that rightly move within the window, so that their writes are counted elsewhere."""
REFUSED = {
    "a name of 53 characters": (
        manifest("a" * 53, "{ns}", spec()),
        "the name of a TrainingJob has at most 52 characters, because its pods are named <job>-<index>-<incarnation>: choose a shorter one",
    ),
    "fewer nodes than none": (
        manifest("less", "{ns}", spec(numNodes=-1)),
        "spec.trainer.numNodes in body should be greater than or equal to 1",
    ),
    "less memory than none": (
        manifest("less", "{ns}", spec(resourcesPerNode={"limits": {"memory": "-1Gi"}})),
        "a quantity is a number that is not negative, as 4, 500m or 16Gi",
    ),
    "no quantity": (
        manifest("many", "{ns}", spec(resourcesPerNode={"limits": {"cpu": "lots"}})),
        "a quantity is a number that is not negative, as 4, 500m or 16Gi",
    ),
    "a million characters in one variable": (
        manifest("long", "{ns}", spec(env=[{"name": "A", "value": "x" * 1_000_000}])),
        "spec.trainer.env[0].value: Too long: may not be more than 32768 bytes",
    ),
    "an edit of what runs": (
        manifest("deaf", "{ns}", {**LIVE["deaf"], "trainer": {"command": ["true"]}}),
        "trainer can be edited only while the job is suspended: set spec.suspend to true first",
    ),
}
