"""The only module that imports wandb: a child that does one errand after the other for the courier.

An errand is a line of JSON on standard input, its outcome a line on the descriptor given as argument. The
client hangs, leaks or dies here alone; the courier ends this process when an errand takes too long, and
whatever was half done is found out by looking into the store again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import wandb

from mlenv.ckpt import durable

if TYPE_CHECKING:
    from collections.abc import Iterable

PAGE = 100
CONFIRM_SECONDS = 0.25
"""Between two looks whether the server has what was logged."""


class Client:
    """The client, with the runs that it has open."""

    def __init__(self) -> None:
        self._api: Any = None
        self._run: Any = None

    def do(self, errand: str, ask: dict[str, Any]) -> Any:
        """Do one errand; its outcome, as JSON has it."""
        return getattr(self, f"_{errand}")(**ask)

    @property
    def api(self) -> Any:
        """Made when first used: that is a request already."""
        if self._api is None:
            self._api = wandb.Api(timeout=60)
        return self._api

    def _list(self, place: str, kind: str) -> list[dict[str, Any]]:
        """All committed versions of a collection; nothing of one that is not there."""
        if not self.api.artifact_collection_exists(place, kind):
            return []
        found = self.api.artifacts(kind, place, per_page=PAGE)
        return [_version(place, one) for one in found if one.state == "COMMITTED"]

    def _find(self, name: str, kind: str) -> dict[str, Any]:
        """One version of any job, by its version or an alias."""
        found = self._artifact(name, kind)
        if found.state != "COMMITTED":
            raise ValueError(f"{name} is {found.state.lower()}")
        return _version(name.rpartition(":")[0], found)

    def _push(
        self,
        *,
        run: dict[str, Any],
        name: str,
        kind: str,
        metadata: dict[str, Any],
        files: list[tuple[str, str]],
        aliases: list[str],
        seconds: int,
    ) -> dict[str, Any]:
        """Log one version and wait until it is committed. The same content again is the same version."""
        opened = self._open(run)
        artifact = wandb.Artifact(name, kind, metadata=metadata)
        for uri, path in files:
            artifact.add_file(path, uri, policy="immutable", skip_cache=True)
        opened.log_artifact(artifact, aliases=aliases)
        artifact.wait(seconds)
        place = f"{run['entity']}/{run['project']}/{name}"
        return _version(place, artifact)

    def _open(self, run: dict[str, str], config: dict[str, Any] | None = None) -> Any:
        if self._run is None:
            # What is said at the start is sent at once, and what comes later when the client finds time.
            settings: Any = {**run, "resume": "allow", "config": config}
            self._run = wandb.init(**settings)
            self._run.define_metric("step", hidden=True)
            self._run.define_metric("*", step_metric="step")
        return self._run

    def _log(
        self,
        *,
        run: dict[str, str],
        rows: list[tuple[int, float, dict[str, Any]]],
        config: dict[str, Any],
        summary: dict[str, Any],
        after: int,
        seconds: float,
    ) -> dict[str, Any]:
        """Log rows, and wait until the server says that it has the last one; what that holds then.

        The client counts lines from where the run was when it was opened: if that ends with another row than
        `after` by now, somebody else logs, and this client would write over what is there.
        """
        path = f"{run['entity']}/{run['project']}/{run['id']}"
        opened = self._open(run, config)
        if rows and max(0, self._tail(path)["step"]) != after:
            raise RuntimeError(f"another courier has logged to {path} meanwhile")
        changed = {key: value for key, value in config.items() if opened.config.get(key) != value}
        if changed:
            opened.config.update(changed, allow_val_change=True)
        for step, when, values in rows:
            opened.log({**_floats(values), "_timestamp": when}, step=step, commit=True)
        for key, value in summary.items():
            opened.summary[key] = value
        end = time.monotonic() + seconds
        while (found := self._tail(path))["step"] < (rows[-1][0] if rows else -1):
            if time.monotonic() > end:
                raise TimeoutError(f"timeout: the server has not got step {rows[-1][0]} of {path}")
            time.sleep(CONFIRM_SECONDS)
        return found

    def _tail(self, path: str) -> dict[str, Any]:
        """The last row of a run's history, with its config; of one that is not there, nothing."""
        self.api.flush()
        try:
            run = self.api.run(path)
        except (ValueError, wandb.errors.CommError) as error:
            if "Could not find run" not in str(error):
                raise
            return {"step": -1, "row": None, "summary": {}, "config": {}, "url": ""}
        last = run.lastHistoryStep
        last = -1 if last is None else last
        row = next(iter(run.scan_history(min_step=last, max_step=last + 1, use_cache=False)), None)
        summary = {"mlenv/attempt": run.summary.get("mlenv/attempt")}
        found = {"step": last if row else -1, "row": row, "summary": summary, "config": run.config}
        return {**found, "url": run.url or ""}

    def _history(self, path: str, low: int, high: int) -> list[dict[str, Any]]:
        """What a run has recorded from row `low` to row `high`."""
        run = self.api.run(path)
        return list(run.scan_history(min_step=low, max_step=high + 1, use_cache=False))

    def _finish(self, *, run: dict[str, str] | None, code: int, preempted: bool) -> None:
        """Say that the run is over, and how, as far as this courier knows."""
        if run is not None:
            self._open(run)
        if self._run is not None:
            if preempted:
                self._run.mark_preempting()
            self._run.finish(exit_code=code)
            self._run = None

    def _read(self, name: str, kind: str, uri: str, into: str) -> dict[str, Any]:
        """Bring one file, and say what arrived: by its own hash, as the client trusts sizes and caches."""
        entry = self._artifact(name, kind).get_entry(uri)
        folder = Path(into)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / uri).unlink(missing_ok=True)
        entry.download(root=into, skip_cache=True)
        size, found = durable.hash_file(folder / uri)
        return {"size": size, "hash": found}

    def _check(self, name: str, kind: str, files: list[tuple[str, int, str]], scratch: str) -> list[str]:
        """Read every file back, one at a time; what is wrong with which, in words."""
        wrong = []
        listed = self._artifact(name, kind).manifest.entries
        for uri, size, sha in files:
            if uri not in listed:
                wrong.append(f"{uri} is not in {name}")
                continue
            try:
                found = self._read(name, kind, uri, scratch)
            finally:
                (Path(scratch) / uri).unlink(missing_ok=True)
            if (found["size"], found["hash"]) != (size, sha):
                wrong.append(f"{uri} came back with {found['size']} bytes of other content than was sent")
        shutil.rmtree(scratch, ignore_errors=True)
        return wrong

    def _sync(self, folder: str, seconds: float) -> None:
        """Send an offline run by the client's own command, which says nowhere but in a marker that it did."""
        for marker in Path(folder).glob("*.wandb.synced"):
            marker.unlink()
        command = [sys.executable, "-m", "wandb", "sync", "--include-synced", folder]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False
        )
        if not list(Path(folder).glob("*.wandb.synced")):
            raise RuntimeError(" ".join((done.stdout + done.stderr).split())[-400:])

    def _mark(self, name: str, kind: str, metadata: dict[str, Any], aliases: list[str]) -> None:
        """Add to what is written beside a version, and to its aliases."""
        artifact = self._artifact(name, kind)
        artifact.metadata = {**artifact.metadata, **metadata}
        artifact.aliases = [*artifact.aliases, *(one for one in aliases if one not in artifact.aliases)]
        artifact.save()

    def _drop(self, name: str, kind: str) -> None:
        self._artifact(name, kind).delete(delete_aliases=True)

    def _expire(self, name: str, kind: str, seconds: int) -> None:
        artifact = self._artifact(name, kind)
        artifact.ttl = timedelta(seconds=seconds)
        artifact.metadata = {**artifact.metadata, "expires": True}
        artifact.save()

    def _artifact(self, name: str, kind: str) -> Any:
        return self.api.artifact(name, type=kind)


def _floats(values: dict[str, Any]) -> dict[str, Any]:
    """What JSON has no numbers for, as numbers."""
    return {key: float(one) if isinstance(one, str) else one for key, one in values.items()}


def _version(place: str, one: Any) -> dict[str, Any]:
    return {
        "name": f"{place}:{one.version}",
        "metadata": one.metadata,
        "aliases": list(one.aliases),
        "size": one.size,
        "url": one.url or "",
    }


def serve(lines: Iterable[str], answers: int) -> None:
    """Do what each line asks, until there are no more."""
    client = Client()
    for line in lines:
        ask = json.loads(line)
        try:
            outcome = {"ok": client.do(ask.pop("errand"), ask)}
        except Exception as error:  # noqa: BLE001  (whatever it was, the courier decides)
            outcome = {"error": _words(error)}
        os.write(answers, json.dumps(outcome).encode() + b"\n")


def _words(error: BaseException) -> str:
    """With the status, which the client keeps beside the words, where it keeps it."""
    beside = " ".join(str(one) for one in (getattr(error, "response", None),) if one is not None)
    cause = f" ({error.__cause__})" if error.__cause__ else ""
    return f"{type(error).__name__}: {error}{cause} {beside}".strip()


def main() -> None:
    """Serve the courier that started this."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what the client prints is no answer
    serve(sys.stdin, answers)
    os._exit(0)  # open runs are resumed by the next one; nothing of them is worth waiting for


if __name__ == "__main__":
    main()
