"""The store as the courier sees it: errands, each with a deadline, done by a child that may be killed."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlenv.courier import naming, quiet
from mlenv.courier.errors import StoreFailed, Unfit, Unusable
from mlenv.courier.faults import Fault, Kind, classify
from mlenv.courier.plan import Identity, Version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlenv.courier.config import Config

SHORT_SECONDS: Final = 180.0
"""For an errand without data."""
FINISH_SECONDS: Final = 20.0
LOG_SECONDS: Final = 90.0
"""To open the run, and hand rows over to the client."""
CONFIRMED_SECONDS: Final = 45.0
"""Until the server has them: as long as the client tries by itself."""
SLOWEST: Final = 1 << 20
"""Bytes a second: an upload or download slower than that is begun again."""
EXPIRES_SECONDS: Final = 7 * 86400
MAX_LINE: Final = 64 << 20


class Store:
    """The job's collections. Every method may raise StoreFailed."""

    def __init__(self, config: Config, env: Mapping[str, str]) -> None:
        self._config = config
        self._env = env
        self._child: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self._folder = tempfile.TemporaryDirectory(prefix="courier-", ignore_cleanup_errors=True)
        self.head: Final = naming.collection(config.job, config.uid)
        self.page = ""
        """Of this node's run; empty while it is not known to be there."""

    def heads(self) -> list[Version]:
        """All committed checkpoints of this job."""
        return self._versions(self.head, naming.TYPE)

    def parts(self) -> list[Version]:
        """All committed parts of them."""
        return self._versions(naming.parts(self.head), naming.PART_TYPE)

    def push(
        self,
        metadata: Mapping[str, Any],
        files: list[tuple[str, str]],
        aliases: tuple[str, ...],
        size: int,
    ) -> None:
        """Log this node's version of a checkpoint, and wait until it is committed."""
        node = self._config.node
        seconds = patience(size)
        self._do(
            "push",
            seconds,
            run=self._run,
            name=self.head if node == 0 else naming.parts(self.head),
            kind=_kind(node),
            metadata=dict(metadata),
            files=files,
            aliases=list(aliases),
            seconds=int(seconds),
        )

    def check(
        self,
        version: Version,
        files: list[tuple[str, int, str]],
        scratch: Path,
        aliases: tuple[str, ...] = (),
    ) -> list[str]:
        """Read a version back; what is wrong, in words. What is right is marked, and gets `aliases`."""
        kind, seconds = _kind(version.node), patience(version.size)
        wrong: list[str] = self._do(
            "check", seconds, name=version.name, kind=kind, files=files, scratch=str(scratch)
        )
        if not wrong:
            mark = {"metadata": {"verified": True}, "aliases": list(aliases)}
            self._do("mark", SHORT_SECONDS, name=version.name, kind=kind, **mark)
        return wrong

    def find(self, name: str, *, finite: bool) -> Version:
        """A checkpoint of any job, by version or alias. Raises Unfit where it is none that may be used."""
        one = self._do("find", SHORT_SECONDS, name=name, kind=naming.TYPE)
        found = version(one, str(one["metadata"].get("job")))
        if found is None:
            raise Unfit("no courier made it: its metadata name no job, step, attempt and digest")
        if not found.verified:
            raise Unfit("it was never read back and verified: name another version")
        if finite and not found.good:
            raise Unfit("it has values that are not finite")
        return found

    def read(self, version: str, node: int, uri: str, into: Path, size: int) -> tuple[int, str]:
        """Bring one file into a folder; its size and SHA-256 as it arrived."""
        found = self._do("read", patience(size), name=version, kind=_kind(node), uri=uri, into=str(into))
        return found["size"], found["hash"]

    def sync(self, folder: Path, size: int) -> None:
        """Send a run that was written offline; doing it again sends what was added."""
        self._do("sync", patience(size), folder=str(folder), seconds=patience(size))

    def delete(self, version: Version) -> None:
        """Delete a version with all its names."""
        self._do("drop", SHORT_SECONDS, name=version.name, kind=_kind(version.node))

    def expire(self, version: Version) -> None:
        """Have the store delete a version in a week."""
        self._do(
            "expire", SHORT_SECONDS, name=version.name, kind=_kind(version.node), seconds=EXPIRES_SECONDS
        )

    @property
    def _run(self) -> dict[str, str]:
        config, node = self._config, self._config.node
        return {
            "entity": config.entity,
            "project": config.project,
            "id": naming.run(config.uid, node),
            "name": config.job if node == 0 else f"{config.job} (node {node})",
            "group": config.uid,
            "job_type": "training" if node == 0 else "node",
        }

    @property
    def path(self) -> str:
        """Of this node's run, as entity/project/id."""
        return "/".join(self._run[one] for one in ("entity", "project", "id"))

    def tail(self) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """The last row of the run's history, and what its summary says of attempts."""
        return self._end_of(self._do("tail", SHORT_SECONDS, path=self.path))

    def _end_of(self, found: Mapping[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        self.page = str(found["url"]) or self.page
        return found["row"], found["summary"]

    def recorded(self, low: int, high: int) -> list[dict[str, Any]]:
        """The rows from `low` to `high`, as they were recorded."""
        found: list[dict[str, Any]] = self._do("history", SHORT_SECONDS, path=self.path, low=low, high=high)
        return found

    def log(
        self,
        rows: list[tuple[int, float, dict[str, Any]]],
        config: Mapping[str, Any],
        summary: Mapping[str, Any],
        after: int,
    ) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """Log rows behind row `after`; what `tail` gives, once the server says that it has them."""
        found = self._do(
            "log",
            LOG_SECONDS + CONFIRMED_SECONDS,
            run=self._run,
            rows=rows,
            config=dict(config),
            summary=dict(summary),
            after=after,
            seconds=CONFIRMED_SECONDS,
        )
        return self._end_of(found)

    def finish(self, code: int | None = 0, *, opened: bool = False, preempted: bool = False) -> None:
        """Have the run shown as finished, with that exit code; a later courier opens it again.

        Where nobody knows how the program ended, the run is left as it is: W&B calls it crashed, in minutes.
        """
        if self._child is not None and code is not None:
            with suppress(StoreFailed):
                run = self._run if opened else None
                self._do("finish", FINISH_SECONDS, run=run, code=code, preempted=preempted)

    def close(self) -> None:
        """End the child, if there is one, and remove its files."""
        self._end()
        self._folder.cleanup()

    def _end(self) -> None:
        child, self._child, self._buffer = self._child, None, b""
        if child is not None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            for pipe in (child.stdin, child.stdout):
                with suppress(OSError):
                    if pipe is not None:
                        pipe.close()

    def _versions(self, collection: str, kind: str) -> list[Version]:
        place = f"{self._config.entity}/{self._config.project}/{collection}"
        listed = self._do("list", SHORT_SECONDS, place=place, kind=kind)
        found = [version(one, self._config.uid) for one in listed]
        return [one for one in found if one is not None]

    # -- the child

    def _do(self, errand: str, limit: float, /, **ask: Any) -> Any:
        try:
            answer = self._ask({"errand": errand, **ask}, limit)
        except StoreFailed:
            self._end()
            raise
        except (OSError, ValueError) as error:
            self._end()
            raise StoreFailed(Fault(Kind.OTHER, f"the W&B client ended: {error}")) from None
        if "error" in answer:
            self._end()  # a client that failed once may keep what made it fail: a key, a connection, a run
            raise StoreFailed(classify(f"{errand}: {answer['error']}"))
        return answer["ok"]

    def _ask(self, ask: dict[str, Any], seconds: float) -> dict[str, Any]:
        child = self._running()
        assert child.stdin is not None
        child.stdin.write(json.dumps(ask).encode() + b"\n")
        child.stdin.flush()
        answer = json.loads(self._line(child, time.monotonic() + seconds, ask["errand"]))
        assert isinstance(answer, dict)
        return answer

    def _line(self, child: subprocess.Popen[bytes], deadline: float, errand: str) -> bytes:
        assert child.stdout is not None
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([child.stdout], [], [], left)[0]:
                raise StoreFailed(Fault(Kind.SLOW, f"{errand}: no answer in time"))
            piece = os.read(child.stdout.fileno(), 1 << 16)
            if not piece or len(self._buffer) > MAX_LINE:
                raise ValueError(f"without an answer to {errand} (exit code {child.poll()})")
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            _reap()
            try:
                key = self._config.key(self._env)
            except Unusable as error:
                raise StoreFailed(Fault(Kind.NO_KEY, str(error))) from None
            folder = Path(self._folder.name) / "client"
            shutil.rmtree(folder, ignore_errors=True)  # caches and run folders of the one before
            env = quiet.environment(self._env, folder, key, self._config.url, self._config.code)
            for name in quiet.FOLDERS:
                os.makedirs(env[name], exist_ok=True)  # noqa: PTH103
            self._child = subprocess.Popen(
                [sys.executable, "-m", "mlenv.courier.worker"],
                env=env,
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
        return self._child


def version(one: Mapping[str, Any], uid: str) -> Version | None:
    """What the store says of a version; None where it is not one of ours, or makes no sense."""
    about = one["metadata"]
    if about.get("job") != uid:
        return None
    try:
        return Version(
            name=str(one["name"]),
            which=Identity(int(about["step"]), int(about["attempt"]), str(about["digest"])),
            node=int(about["node"]),
            verified=about.get("verified") is True,
            size=int(about["bytes"]),
            time=datetime.fromisoformat(str(about["time"])).astimezone(UTC),
            good=about.get("good") is True,
            sane=about.get("sane") is not False,
            url=_run_page(str(one["url"]), naming.run(uid, int(about["node"]))),
            parts=tuple((int(node), str(name)) for node, name in sorted(about.get("parts", {}).items())),
            expires=about.get("expires") is True,
            metrics=dict(about.get("metrics", {})),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _reap() -> None:
    """Children of clients that were ended become those of the first process of their container: of us."""
    if os.getpid() != 1:
        return
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _run_page(artifact_page: str, run: str) -> str:
    project, found, _ = artifact_page.partition("/artifacts/")
    return f"{project}/runs/{run}" if found else ""


def _kind(node: int) -> str:
    return naming.TYPE if node == 0 else naming.PART_TYPE


def patience(size: int) -> float:
    """Seconds for an errand with so many bytes."""
    return SHORT_SECONDS + size / SLOWEST
