"""A spool with real seals, and a courier over it that talks to a real server through the real client."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from mlenv.ckpt import durable, names, seal
from mlenv.courier.config import Config
from mlenv.courier.courier import AGAIN_SECONDS, Courier
from mlenv.courier.remote import Store
from mlenv.courier.spool import Spool
from mlenv_api import names as api_names

if TYPE_CHECKING:
    from pathlib import Path

    from wandb_server import Server

    from mlenv.courier.plan import Version

START = datetime(2026, 1, 1, tzinfo=UTC)
UID = "uid-1"


def put(
    folder: Path,
    step: int,
    attempt: int = 1,
    *,
    seed: int = 0,
    job: str = UID,
    size: int = 50_000,
    **head: Any,
) -> seal.Seal:
    """Seal a checkpoint whose files hold noise, and name it last, as ranks do: a courier looks any time."""
    home = folder / (names.folder(step, attempt) + names.TMP)
    home.mkdir(parents=True)
    parts = [
        _part(home, "state.json", b'{"step":%d}' % step, "data"),
        _part(home, "shards/__0_0.distcp", random.Random(step * 100 + seed).randbytes(size), "state"),
    ]
    whole = seal.Seal(
        job=job,
        attempt=attempt,
        step=step,
        time=(START + timedelta(minutes=step)).isoformat(timespec="milliseconds"),
        world=seal.World(size=1, nodes=1),
        parts=tuple(parts),
        **head,
    )
    _finish(home, whole)
    return whole


def put_on_nodes(folders: list[Path], step: int, attempt: int = 1) -> seal.Seal:
    """Seal one whose shards lie on several nodes, as ranks do without a shared volume."""
    homes = [folder / (names.folder(step, attempt) + names.TMP) for folder in folders]
    parts = []
    for node, home in enumerate(homes):
        home.mkdir(parents=True)
        part = _part(home, f"shards/__{node}_0.distcp", random.Random(step + node).randbytes(20_000), "state")
        parts.append(part.model_copy(update={"node": node}))
        copy = _part(home, f"replica-{node}/__{node}_0.distcp", b"alike", "replica")
        parts.append(copy.model_copy(update={"node": node}))
    state = next(iter([_part(home, "state.json", b"{}", "data") for home in homes]))
    whole = seal.Seal(
        job=UID,
        attempt=attempt,
        step=step,
        time=(START + timedelta(minutes=step)).isoformat(timespec="milliseconds"),
        world=seal.World(size=len(homes), nodes=len(homes)),
        parts=(*parts, state),
    )
    for home in homes:
        _finish(home, whole)
    return whole


def _finish(home: Path, whole: seal.Seal) -> None:
    (home / names.SEAL).write_bytes(seal.encode(whole))
    home.rename(home.with_name(whole.folder))


def _part(home: Path, uri: str, data: bytes, kind: Any) -> seal.Part:
    (home / uri).parent.mkdir(parents=True, exist_ok=True)
    (home / uri).write_bytes(data)
    return seal.Part(uri=uri, size=len(data), hash=durable.digest(data), algorithm="sha256", kind=kind)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file with its content."""
    return {str(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*") if one.is_file()}


class Pod:
    """One pod's folder and courier."""

    def __init__(
        self, root: Path, server: Server, key: str, *, node: int = 0, project: str = "p", uid: str = UID
    ) -> None:
        self.folder = root / "checkpoints"
        self.own = root / "courier"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("WANDB")},
            "WANDB_API_KEY": key,
            api_names.ENV_JOB_UID: uid,
            api_names.ENV_JOB_NAME: "ranker",
            api_names.ENV_COURIER: str(self.own),
            api_names.ENV_NODE_INDEX: str(node),
            api_names.ENV_WANDB: json.dumps({"entity": "ada", "project": project, "baseURL": server.url}),
        }
        self.config = Config(
            job="ranker",
            uid=uid,
            node=node,
            checkpoints=self.folder,
            own=self.own,
            entity="ada",
            project=project,
            url=server.url,
            key_file=None,
        )
        self.said: list[str] = []
        self.time = 0.0
        self.restart()

    def restart(self) -> None:
        """A new courier, which knows nothing of the one before."""
        if hasattr(self, "store"):
            self.store.close()
        self.store = Store(self.config, self.env)
        self.spool = Spool(self.config, "me")
        self.spool.begin()
        self.courier = Courier(self.config, self.spool, self.store, self.said.append, lambda: self.time)

    def turn(self) -> None:
        """One turn, after all waiting that failures cost."""
        self.time += 1_000.0
        self.courier.turn()

    def later(self) -> Pod:
        """So much later that a courier looks into the store again, though nothing new is sealed."""
        self.time += AGAIN_SECONDS
        return self

    def carry(self, turns: int = 40) -> Pod:
        """Turn until all is carried."""
        for _ in range(turns):
            self.turn()
            if self.courier.done and self.courier.fault is None:
                return self
        raise AssertionError(f"not carried after {turns} turns: {self.said}")

    def stored(self) -> list[tuple[int, int, bool]]:
        """(step, attempt, verified) of each version, the newest first."""
        return _told(self.store.heads())

    def process(self, *args: str, **env: str) -> subprocess.Popen[str]:
        """The courier as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "mlenv.courier", *args],
            env={**self.env, **env},
            stderr=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        with suppress(OSError):
            self.store.close()


def _told(found: list[Version]) -> list[tuple[int, int, bool]]:
    return sorted(((one.which.step, one.which.attempt, one.verified) for one in found), reverse=True)
