"""An operator for launchers to talk to, and launchers to run: real HTTP, real processes, real signals."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlenv_api import names
from mlenv_api.protocol import BEAT_PATH, Answer, Beat, Checkpoint, Misdirected, Order, Origin, World

if TYPE_CHECKING:
    from collections.abc import Callable

DEADLINE = 180.0
READY = "the fork server is ready"
WAYS = {"exec": {"MLENV_FORK_SERVER": "0"}, "fork": {}}
"""How a launcher may start its ranks, and the environment that says so."""
REPOSITORY = Path(__file__).parents[2]


def until(holds: Callable[[], Any], what: str, seconds: float = DEADLINE, *, pause: float = 0.01) -> Any:
    """Wait for a truthy value of `holds`."""
    deadline = time.monotonic() + seconds
    while not (value := holds()):
        assert time.monotonic() < deadline, f"still waiting for {what}"
        time.sleep(pause)
    return value


class Server:
    """Answers beats; who speaks is told by the token. Every beat must be a valid message.

    Keeps the record as the operator does: the first origin proposed for an attempt, and the newest seal.
    """

    def __init__(self, port: int = 0) -> None:
        self.beats: dict[str, list[Beat]] = {}
        self.raw: list[bytes] = []
        self.errors: list[str] = []
        self.answers: dict[str, Answer] = {}
        self.leader: str | None = None
        self.status: int | None = None
        self.origins: dict[tuple[str, int], Origin] = {}
        """By job and attempt."""
        self.sealed: dict[str, Checkpoint] = {}
        self._changed = threading.Condition()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                server._handle(self)

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._http.daemon_threads = True
        self._sockets: list[socket.socket] = []
        self.port: int = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        """Go away, kept connections and all."""
        self._http.shutdown()
        self._http.server_close()
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def say(self, pod: str, attempt: int, *, world: World | None = None, **more: Any) -> None:
        """Answer `pod` so from here on."""
        with self._changed:
            more = {"term": 1, "next_beat_seconds": 0.1, **more}
            self.answers[pod] = Answer(attempt=attempt, world=world, **more)

    @staticmethod
    def job(pod: str) -> str:
        """The job of a pod: q0 and q1 are of q; a second p0 is called p0-b."""
        return pod.split("-", maxsplit=1)[0].rstrip("0123456789")

    def _record(self, pod: str, beat: Beat, answer: Answer) -> Answer:
        job = self.job(pod)
        if beat.origin is not None and beat.attempt == answer.attempt:
            self.origins.setdefault((job, beat.attempt), beat.origin)
        known = self.sealed.get(job)
        if beat.sealed is not None and (known is None or beat.sealed.step > known.step):
            self.sealed[job] = beat.sealed
        more = {"origin": self.origins.get((job, answer.attempt)), "past": self.sealed.get(job)}
        unset = {key: value for key, value in more.items() if key not in answer.model_fields_set}
        return answer.model_copy(update=unset)

    def wait(self, pod: str, matches: Callable[[Beat], bool], what: str) -> Beat:
        """The newest beat of `pod` that matches, once there is one."""
        with self._changed:
            found = self._changed.wait_for(lambda: self._find(pod, matches), DEADLINE)
            assert found, f"no beat of {pod} with {what}; last: {self.beats.get(pod, [])[-1:]}, {self.errors}"
            return found

    def _find(self, pod: str, matches: Callable[[Beat], bool]) -> Beat | None:
        return next((beat for beat in reversed(self.beats.get(pod, [])) if matches(beat)), None)

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        self._sockets.append(request.connection)
        length = int(request.headers["Content-Length"])
        body = request.rfile.read(length)
        if len(body) < length:  # it was killed while it spoke: head and body are sent one after the other
            request.close_connection = True
            return
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        status, data = self._reply(request.path, token, body)
        request.send_response(status)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    def _reply(self, path: str, token: str, body: bytes) -> tuple[int, bytes]:
        with self._changed:
            self.raw.append(body)
            try:
                assert path == BEAT_PATH, path
                beat = Beat.model_validate_json(body)
            except (ValueError, AssertionError) as error:
                self.errors.append(str(error))
                return 400, b"bad"
            self.beats.setdefault(token, []).append(beat)
            self._changed.notify_all()
            if self.leader is not None:
                return 421, Misdirected(leader=self.leader).model_dump_json(by_alias=True).encode()
            if self.status is not None:
                return self.status, b"no"
            answer = self.decide(token, beat)
            return 200, answer.model_dump_json(by_alias=True, exclude_none=True).encode()

    def decide(self, pod: str, beat: Beat) -> Answer:
        """What `pod` is told."""
        answer = self.answers.get(pod, Answer(term=1, attempt=0, next_beat_seconds=0.1))
        return self._record(pod, beat, answer)


@dataclass
class Launcher:
    """One running `python -m mlenv.launch`."""

    process: subprocess.Popen[bytes]
    pod: str
    run_dir: Path
    token_file: Path
    log: Path

    def text(self) -> str:
        """All that it has printed."""
        return self.log.read_text(errors="replace")

    def exit_code(self) -> int:
        """Its exit code, once it ended."""
        return self.process.wait(DEADLINE)

    def wait_for_forks(self) -> int:
        """The process id of its fork server, once that is ready."""
        return int(until(self.fork_server, "the fork server"))

    def fork_server(self) -> int | None:
        """The process id of its fork server, if that is ready; it names itself shortly before."""
        for pid in self.children():
            with contextlib.suppress(OSError):  # it has just ended
                if (
                    READY in self.text()
                    and b"mlenv: fork server" in Path(f"/proc/{pid}/cmdline").read_bytes()
                ):
                    return pid
        return None

    def children(self) -> dict[int, str]:
        """Its children: the state (R, S, Z, ...) of each."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                if int(fields[1]) == self.process.pid:
                    found[int(entry.name)] = fields[0]
        return found


@dataclass
class Rig:
    """Servers and launchers of one test; everything ends with it."""

    folder: Path
    servers: list[Server] = field(default_factory=list)
    launchers: list[Launcher] = field(default_factory=list)

    def server(self, port: int = 0) -> Server:
        """Start an operator."""
        self.servers.append(Server(port))
        return self.servers[-1]

    def launch(
        self,
        *program: str,
        urls: str,
        pod: str = "p0",
        index: int = 0,
        nodes: int = 1,
        procs: int = 1,
        way: str = "exec",
        **env: str,
    ) -> Launcher:
        """Start a launcher as a pod would, which starts ranks in this way."""
        run_dir = self.folder / pod
        run_dir.mkdir()
        token = self.folder / f"{pod}.token"
        token.write_text(pod)
        variables = {
            names.ENV_OPERATOR_URLS: urls,
            names.ENV_TOKEN_FILE: str(token),
            names.ENV_RUN_DIR: str(run_dir),
            names.ENV_NODE_INDEX: str(index),
            names.ENV_NUM_NODES: str(nodes),
            names.ENV_NUM_PROC_PER_NODE: str(procs),
            names.ENV_POD_IP: "127.0.0.1",
            names.ENV_JOB_UID: "uid-1",
        }
        process, log = self.start([*program], pod, {**variables, **env, **WAYS[way]})
        self.launchers.append(Launcher(process, pod, run_dir, token, log))
        return self.launchers[-1]

    def start(self, argv: list[str], name: str, env: dict[str, str]) -> tuple[subprocess.Popen[bytes], Path]:
        """Start `python -m mlenv.launch argv`, its output in a file."""
        log = self.folder / f"{name}.log"
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MLENV_")}
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "mlenv.launch", *argv],
                env={**clean, "OMP_NUM_THREADS": "1", **env},
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
            )
        return process, log

    def close(self) -> None:
        """End everything."""
        for launcher in self.launchers:
            if launcher.process.poll() is None:
                launcher.process.terminate()
        for launcher in self.launchers:
            try:
                launcher.process.wait(40)
            except subprocess.TimeoutExpired:
                launcher.process.kill()
                launcher.process.wait()
        for server in self.servers:
            server.close()


def world(port: int | None = 29999, *, nodes: int = 1, rank: int = 0, procs: int = 1) -> World:
    """A world on this machine."""
    assert port is not None
    return World(
        num_nodes=nodes, node_rank=rank, num_proc_per_node=procs, master_addr="127.0.0.1", master_port=port
    )


STOP = Order.STOP
