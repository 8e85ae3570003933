"""Couriers as sidecars of real pods: checkpoints reach a W&B server, and come back when pods are gone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import claims
import kills
import pytest
from live import Job, condition
from tracked import PATIENCE, Tracked, tracked, uploaded_of

from mlenv_api import names
from mlenv_local.shell import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlenv_local import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]

STEPS = 100
HOLD = 50
SEALED = 40
"""The last checkpoint before HOLD: one is taken every 20 steps."""


@pytest.fixture(scope="module")
def place(installed: Cluster) -> Iterator[Tracked]:
    with tracked(installed) as found:
        yield found


@pytest.fixture(scope="module")
def undisturbed(place: Tracked) -> Job:
    """What a job of two ranks comes to when nothing happens to it."""
    job = place.ground.submit("undisturbed", 2, 1, STEPS)
    job.until_phase("Complete", PATIENCE)
    return job


def test_pods_that_are_gone_with_their_folders_go_on_exactly_from_the_store(
    place: Tracked, undisturbed: Job
) -> None:
    job = place.submit("gone", STEPS, hold=HOLD)
    told = place.until_uploaded(job, SEALED)
    assert {one["step"]: one["verified"] for one in place.versions(job)}[SEALED] is True
    assert told["uploaded"]["artifact"].startswith(f"ada/e2e/gone-{job.uid}-ckpt:v")
    assert found_key(place, job) == []
    place.kill_pods(job)
    job.until(lambda status: status["attempt"]["number"] > 1, "next attempt", PATIENCE)
    place.let_go(job)
    status = job.until_phase("Complete", PATIENCE)
    origin = status["attempt"]["origin"]["checkpoint"]
    assert (origin["step"], origin["digest"]) == (SEALED, told["uploaded"]["digest"])
    diary, whole = place.ground.diary(job), place.ground.diary(undisturbed)
    begun = [one["begins"] for one in diary.lines if "begins" in one and one["attempt"] > 1]
    assert begun == [SEALED, SEALED]
    assert diary.end == whole.end
    assert diary.contradictions() == []
    assert place.losses_differ(job, undisturbed) == []
    assert found_key(place, job) == []


def test_a_courier_that_is_killed_starts_again_and_nothing_else_does(place: Tracked) -> None:
    job = place.submit("struck", STEPS, nodes=1, hold=HOLD)
    place.until_uploaded(job, SEALED)
    couriers = [one for one in place.processes(job, 0) if one.own == 1 and "mlenv.courier" in one.title]
    assert [one.kill() for one in couriers] == [True]
    job.until_pods(lambda pods: restarts(pods[0]) == 1, "restart of the courier", PATIENCE)
    place.let_go(job)
    status = job.until_phase("Complete", PATIENCE)
    assert (status["attempt"]["number"], status["restarts"]["total"]) == (1, 0)
    found = place.versions(job)  # once: the courier may just be deleting one that is not kept
    assert len({one["digest"] for one in found}) == len(found)


def test_a_server_that_is_away_holds_nothing_up_and_is_caught_up_with(
    place: Tracked, undisturbed: Job
) -> None:
    place.server.kill()
    try:
        job = place.submit("away", STEPS, hold=HOLD)
        said = place.until_degraded(job, "StoreUnreachable")
        assert "the server cannot be reached: check baseURL, proxy, certificates and NetworkPolicies" in said
        status = job.until(lambda one: sealed_step(one) >= SEALED, f"seal of step {SEALED}", PATIENCE)
        assert (status["phase"], uploaded_of(status)) == ("Running", {})
        assert len(place.zombies(job, 0)) <= 1, "clients that were ended are not left lying"
    finally:
        place.server.start()
    place.until_uploaded(job, SEALED)
    place.until_well(job)
    place.server.kill()
    try:
        place.kill_pods(job)
        place.until_line(job, "waits for a checkpoint from the store")
    finally:
        place.server.start()
    place.let_go(job)
    status = job.until_phase("Complete", PATIENCE)
    assert status["attempt"]["origin"]["checkpoint"]["step"] == SEALED
    assert place.losses_differ(job, undisturbed) == []


def test_a_key_that_is_not_there_and_one_that_has_expired_are_named_and_mended_in_place(
    place: Tracked,
) -> None:
    job = place.submit("keyless", STEPS, nodes=1, hold=HOLD, secret="late")
    said = place.until_degraded(job, "StoreKeyMissing")
    assert f'key "api-key" of Secret "late" in namespace {place.ns.name} is not there, or empty' in said
    assert "create it, or correct spec.tracking.wandb" in said
    said = job.until_says("TrackingDegraded", "True", "StoreKeyMissing", PATIENCE)
    assert "history is not logged to the job's run" in said
    job.until(lambda one: sealed_step(one) >= SEALED, f"seal of step {SEALED}", PATIENCE)
    place.secret("0" * 40, "late")
    assert "the API key is not accepted" in place.until_degraded(job, "StoreUnauthorized")
    place.secret(place.key, "late")
    place.until_uploaded(job, SEALED)
    place.until_well(job)
    job.until_says("TrackingDegraded", "False", "HistoryLogged", PATIENCE)
    place.let_go(job)
    status = job.until_phase("Complete", PATIENCE)
    assert status["attempt"]["number"] == 1
    assert [restarts(one) for one in job.pods()] == [0]
    (pod,) = job.pods()
    (seen,) = pod["status"]["containerStatuses"]
    assert place.config(job)["image_id"] == seen["imageID"] != ""


def test_what_a_pod_could_not_carry_before_it_ended_a_job_carries_from_the_volume_once(
    place: Tracked,
) -> None:
    with claims.claim(place.ns) as volume:
        job = place.submit("drained", STEPS, nodes=1, hold=HOLD, spool=volume)
        place.until_uploaded(job, SEALED)
        place.server.kill()
        try:
            place.let_go(job)
            job.until_phase("Complete", PATIENCE)
            name = names.drain_name(job.name, job.uid)
            words = f"is being carried to the store from volume claim {volume} by Job {name}"
            job.until(lambda one: words in str(one["conditions"]), "drain Job", PATIENCE)
            assert uploaded_of(job.status())["step"] < STEPS
            assert condition(job.status(), "TrackingDegraded").get("status") == "True", "rows wait, too"
        finally:
            place.server.start()
        assert place.until_uploaded(job, STEPS)["sealed"]["step"] == STEPS
        assert condition(job.status(), "CheckpointDegraded") == {}
        assert condition(job.status(), "TrackingDegraded") == {}
        found = place.versions(job)
        assert [one["step"] for one in found if one["step"] == STEPS and one["verified"]] == [STEPS]
        assert len({one["digest"] for one in found}) == len(found)
        made = f"/apis/batch/v1/namespaces/{place.ns.name}/jobs/{name}"

        def succeeded() -> int:  # its controller says so, a moment after its pod has ended
            return int(place.ns.api.get(made).get("status", {}).get("succeeded", 0))

        assert wait_until(lambda: succeeded() == 1, seconds=PATIENCE), place.ns.api.get(made)
        job.delete()
        job.until_gone()


def test_without_a_volume_the_pod_stays_until_its_courier_is_done_and_its_last_words_count(
    place: Tracked,
) -> None:
    job = place.submit("alone", STEPS, nodes=1, hold=HOLD)
    place.until_uploaded(job, SEALED)
    place.server.kill()
    try:
        place.let_go(job)
        job.until_phase("Complete", PATIENCE)
        said = "is being carried to the store for what is left of its pod's grace"
        job.until(lambda one: said in str(one["conditions"]), "word of its last checkpoint", PATIENCE)
    finally:
        place.server.start()
    place.until_uploaded(job, STEPS)
    assert condition(job.status(), "CheckpointDegraded") == {}
    job.until_pods(lambda pods: [one["status"]["phase"] for one in pods] == ["Succeeded"], "end of the pod")


def sealed_step(status: dict[str, object]) -> int:
    """That of the newest sealed checkpoint; -1 without one."""
    record = status.get("checkpoint") or {}
    assert isinstance(record, dict)
    return int((record.get("sealed") or {"step": -1})["step"])


def restarts(pod: dict[str, object]) -> int:
    """How often the courier of a pod was started again."""
    status = pod.get("status") or {}
    assert isinstance(status, dict)
    return sum(int(one["restartCount"]) for one in status.get("initContainerStatuses", ()))


def found_key(place: Tracked, job: Job) -> list[str]:
    """Where the key is to be seen, besides the courier."""
    api, ns, key = place.ns.api, place.ns.name, place.key
    shown = {"job": json.dumps(job.now()), "pods": json.dumps(job.pods())}
    for what in ("/api/v1/{}/events", "/api/v1/{}/configmaps", "/apis/apps/v1/{}/controllerrevisions"):
        shown[what] = json.dumps(api.get(what.format(f"namespaces/{ns}")))
    for index in range(len(job.pods())):
        shown[f"log {index}"] = place.logs(job, "trainer", index)
        shown[f"courier's log {index}"] = place.logs(job, "courier", index)
        for one in trainer_processes(place, job, index):
            home = Path(f"/proc/{one.pid}")
            shown[f"environment of {one.title}"] = (home / "environ").read_bytes().decode(errors="replace")
            folder = home / "root/var/run/secrets/mlenv-wandb"
            shown[f"files of {one.title}"] = key if folder.exists() else ""
    return [name for name, text in shown.items() if key in text]


def trainer_processes(place: Tracked, job: Job, index: int) -> list[kills.Process]:
    """The launcher of a pod and what it started."""
    found = place.processes(job, index)
    first = kills.launcher(found)
    return [first, *kills.ranks(found)] if first else []


def test_the_condition_is_gone_from_a_job_that_ended(place: Tracked, undisturbed: Job) -> None:
    """Jobs without couriers never had one."""
    assert condition(undisturbed.status(), "CheckpointDegraded") == {}
