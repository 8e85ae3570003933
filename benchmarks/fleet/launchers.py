"""Launchers without processes: real core, routing, tokens and beats; ranks and kubelet are pretended."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from mlenv.launch import core, events
from mlenv.launch.beats import encode
from mlenv.launch.route import Route
from mlenv_api import names
from mlenv_api.protocol import BEAT_PATH, Answer, Misdirected, World
from mlenv_local.tokens import mint
from mlenv_operator.kube.client import Client, Selection
from mlenv_operator.kube.errors import ApiError
from mlenv_operator.kube.resources import PODS, TRAINING_JOBS

if TYPE_CHECKING:
    from mlenv_local import Cluster

Raw = dict[str, Any]
SETUP: Final = core.Setup(grace=5.0)
FAILURES: Final = 2
"""A job fails so often at most: after that, the operator lets short attempts wait."""


@dataclass
class Records:
    """What launchers were told, as one who hears all of them."""

    worlds: dict[tuple[str, int], set[tuple[str, int, int]]] = field(default_factory=lambda: defaultdict(set))
    """By job and attempt: every world that a launcher was told to form."""
    places: dict[tuple[str, int, int], set[str]] = field(default_factory=lambda: defaultdict(set))
    """By job, attempt and node rank: every pod that was given this place."""
    leaders: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    """By term: everybody who gave answers under it."""
    beats: int = 0
    last_term: int = 0
    _newer: asyncio.Event = field(default_factory=asyncio.Event)

    def answered(self, url: str, answer: Answer) -> None:
        """Somebody was answered."""
        self.beats += 1
        self.leaders[answer.term].add(url)
        if answer.term > self.last_term:
            self.last_term = answer.term
            self._newer.set()

    def started(self, job: str, pod: str, attempt: int, world: World) -> None:
        """A launcher starts its ranks."""
        self.worlds[job, attempt].add((world.master_addr, world.master_port, world.num_nodes))
        self.places[job, attempt, world.node_rank].add(pod)

    async def newer_term(self, term: int, seconds: float) -> float | None:
        """When the first answer of a later term came; null when none comes in so many seconds."""
        deadline = time.monotonic() + seconds
        while self.last_term <= term:
            self._newer.clear()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._newer.wait()
            except TimeoutError:
                return None
        return time.monotonic()

    @property
    def double_worlds(self) -> int:
        """Attempts of which two worlds, or two pods in one place, were ever formed."""
        worlds = sum(len(found) > 1 for found in self.worlds.values())
        return worlds + sum(len(found) > 1 for found in self.places.values())

    @property
    def double_terms(self) -> int:
        """Terms under which two replicas gave answers."""
        return sum(len(found) > 1 for found in self.leaders.values())


class Fleet:
    """So many jobs at a time; the end of one is the beginning of another. Plays the kubelet of their pods."""

    def __init__(self, client: Client, cluster: Cluster, namespace: str, *, jobs: int, pods: int) -> None:
        self._client = client
        self._namespace = namespace
        self._jobs, self._pods = jobs, pods
        self._key = cluster.sa_signing_key.read_bytes()
        self._account = cluster.kubectl.get("serviceaccount", "default", "-n", namespace)["metadata"]["uid"]
        self._launchers: dict[str, asyncio.Task[None]] = {}
        self._ended: set[str] = set()
        self._number = 0
        self.urls: tuple[str, ...] = ()
        self.records = Records()
        self.replace = True
        self.jobs_done = 0

    async def run(self) -> None:
        """Until cancelled."""
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=5)) as http:
            self._http = http
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._follow(PODS, self._pod))
                group.create_task(self._follow(TRAINING_JOBS, self._job))
                for _ in range(self._jobs):
                    await self._submit()

    async def _follow(self, resource: Any, handle: Any) -> None:
        """List and watch, for ever."""
        selection = Selection(namespace=self._namespace)
        while True:
            with suppress(ApiError):
                version = ""
                async for page in self._client.list_pages(resource, selection):
                    version = page.resource_version
                    for raw in page.items:
                        await handle("ADDED", raw)
                async for type_, raw in self._client.watch(resource, version, selection):
                    if type_ != "BOOKMARK":
                        await handle(type_, raw)
            await asyncio.sleep(0.2)

    async def _submit(self) -> None:
        self._number += 1
        spec = {
            "launcher": "MLEnv",
            "trainer": {"image": "none.invalid/none:1", "command": ["x"], "numNodes": self._pods},
            "failurePolicy": {"maxRestarts": 10},
            "scheduling": {"assemblyTimeoutSeconds": 3600},
            "podTemplateOverrides": {"spec": {"schedulerName": "nobody"}},
        }
        metadata = {"name": f"j{self._number}", "namespace": self._namespace}
        await self._client.create(
            TRAINING_JOBS,
            {"apiVersion": names.API_VERSION, "kind": names.TRAINING_JOB, "metadata": metadata, "spec": spec},
        )

    async def _job(self, type_: str, raw: Raw) -> None:
        """A job that is done makes room for the next."""
        metadata = raw["metadata"]
        phase = (raw.get("status") or {}).get("phase")
        if type_ == "DELETED" or phase not in ("Complete", "Failed") or metadata["uid"] in self._ended:
            return
        self._ended.add(metadata["uid"])
        self.jobs_done += 1
        with suppress(ApiError):
            await self._client.delete(TRAINING_JOBS, self._namespace, metadata["name"], uid=metadata["uid"])
        if self.replace:
            await self._submit()

    async def _pod(self, type_: str, raw: Raw) -> None:
        uid = raw["metadata"]["uid"]
        if type_ == "DELETED":
            if (task := self._launchers.pop(uid, None)) is not None:
                task.cancel()
        elif uid not in self._launchers and not raw["metadata"].get("deletionTimestamp"):
            self._launchers[uid] = self._group.create_task(self._live(raw))

    async def _live(self, raw: Raw) -> None:
        """One pod's life."""
        name, address = (
            raw["metadata"]["name"],
            f"10.99.{secrets.randbelow(250)}.{secrets.randbelow(250) + 1}",
        )
        running = {"running": {"startedAt": _now()}}
        await self._tell(name, "Running", address, running)
        token = self._token(raw)
        launcher = Launcher(raw, self.urls, self.records, self._http, token)
        code = await launcher.run()
        ended = {"terminated": {"exitCode": code, "finishedAt": _now(), "startedAt": _now()}}
        await self._tell(name, "Failed" if code else "Succeeded", address, ended)

    async def _tell(self, name: str, phase: str, address: str, state: Raw) -> None:
        """What a kubelet would say; a pod that is gone needs nothing said."""
        container: Raw = {
            "name": names.TRAINER_CONTAINER,
            "image": "x",
            "imageID": "x",
            "ready": phase == "Running",
        }
        container |= {"restartCount": 0, "state": state}
        status = {
            "phase": phase,
            "podIP": address,
            "podIPs": [{"ip": address}],
            "containerStatuses": [container],
        }
        with suppress(ApiError):
            await self._client.merge_patch(
                PODS, self._namespace, name, {"status": status}, subresource="status"
            )

    def _token(self, raw: Raw) -> str:
        metadata = raw["metadata"]
        return mint(
            self._key,
            namespace=self._namespace,
            service_account="default",
            service_account_uid=self._account,
            pod=metadata["name"],
            pod_uid=metadata["uid"],
            audience=names.TOKEN_AUDIENCE,
            lifetime_s=7200,
        )


class Launcher:
    """The shell around the real core, without processes: ranks live for a moment, and fail or succeed."""

    def __init__(
        self, raw: Raw, urls: tuple[str, ...], records: Records, http: aiohttp.ClientSession, token: str
    ) -> None:
        metadata = raw["metadata"]
        self._uid = metadata["uid"]
        self._job = metadata["ownerReferences"][0]["uid"]
        self._index = int(metadata["annotations"][names.ANNOTATION_INDEX])
        self._records = records
        self._http = http
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._route = Route(urls)
        self._state = core.State()
        self._events: asyncio.Queue[events.Event] = asyncio.Queue()
        self._kick = asyncio.Event()
        self._ranks: asyncio.Task[None] | None = None
        self._alarms: dict[events.Timer, asyncio.TimerHandle] = {}
        self._exit: int | None = None

    async def run(self) -> int:
        """Live; the exit code."""
        if self._index == 0:
            self._events.put_nowait(events.StoreBound(0, _port()))
        beats = asyncio.create_task(self._beat())
        try:
            while self._exit is None:
                self._state, commands = core.step(SETUP, self._state, await self._events.get())
                for command in commands:
                    self._do(command)
        finally:
            beats.cancel()
            self._end_ranks()
            for alarm in self._alarms.values():
                alarm.cancel()
        return self._exit

    def _do(self, command: events.Command) -> None:
        match command:
            case events.Start(attempt, world):
                self._records.started(self._job, self._uid, attempt, world)
                self._ranks = asyncio.create_task(self._train(attempt))
            case events.Signal():
                self._end_ranks()
                for rank in self._state.live:
                    self._events.put_nowait(events.RankEnded(rank, -15, datetime.now(UTC)))
            case events.OpenStore(store) if self._index == 0:
                self._events.put_nowait(events.StoreBound(store, _port()))
            case events.SetTimer() | events.CancelTimer():
                self._set(command)
            case events.Exit(code):
                self._exit = code
            case events.Beat():
                self._kick.set()

    def _set(self, command: events.SetTimer | events.CancelTimer) -> None:
        if (alarm := self._alarms.pop(command.timer, None)) is not None:
            alarm.cancel()
        if isinstance(command, events.SetTimer):
            ring = events.TimeUp(command.timer)
            later = asyncio.get_running_loop().call_later
            self._alarms[command.timer] = later(command.seconds, self._events.put_nowait, ring)

    def _end_ranks(self) -> None:
        if self._ranks is not None:
            self._ranks.cancel()
            self._ranks = None

    async def _train(self, attempt: int) -> None:
        """The same draw on all nodes of a world: whether this attempt fails, on which of them, and when."""
        draw = random.Random(f"{self._job}{attempt}")
        fails, where = attempt <= FAILURES and draw.random() < 0.6, draw.randrange(64)
        await asyncio.sleep(draw.uniform(0.5, 3.0))
        nodes = self._state.world.num_nodes if self._state.world else 1
        if not fails:
            self._events.put_nowait(events.RankEnded(0, 0, datetime.now(UTC)))
        elif where % nodes == self._index:
            self._events.put_nowait(events.RankEnded(0, 1, datetime.now(UTC), "ValueError: drawn by lot"))

    async def _beat(self) -> None:
        wait = 0.0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._kick.wait()
            self._kick.clear()
            wait = await self._say()

    async def _say(self) -> float:
        """One beat; seconds until the next."""
        url = self._route.target
        body = encode(core.beat(self._state, datetime.now(UTC), None, "bench"))
        try:
            async with self._http.post(url + BEAT_PATH, data=body, headers=self._headers) as reply:
                return self._heard(url, reply.status, await reply.read())
        except (aiohttp.ClientError, TimeoutError):
            self._route = self._route.failed()
            return self._route.delay(random.random())

    def _heard(self, url: str, status: int, body: bytes) -> float:
        if status == 200:
            answer = Answer.model_validate_json(body)
            self._records.answered(url, answer)
            self._route = self._route.answered()
            self._events.put_nowait(events.Answered(answer))
            return answer.next_beat_seconds
        leader = Misdirected.model_validate_json(body).leader if status == 421 else None
        self._route = self._route.misdirected(leader) if status == 421 else self._route.failed()
        return self._route.delay(random.random())


def _port() -> int:
    return random.randint(20_000, 60_000)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
