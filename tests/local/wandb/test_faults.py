"""Faults of every kind, as the real client sees them, and what is stored afterwards."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from wandb_server import wait_for

from mlenv_local.errors import LocalError
from mlenv_local.wandb_server.faults import CRASH_CODE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from wandb_server import Server


@pytest.fixture(autouse=True)
def no_faults_left(shared: Server) -> Iterator[None]:
    yield
    shared.clear_faults()


def steps(sdk: Any, run: str) -> list[int]:
    return [row["_step"] for row in sdk.Api().run(f"ada/faults/{run}").scan_history()]


def log(sdk: Any, name: str) -> None:
    with sdk.init(project="faults", id=name) as run:
        for step in range(10):
            run.log({"loss": step})


def test_a_status_is_retried_and_nothing_is_lost(sdk: Any, shared: Server) -> None:
    shared.fault("file_stream", status=503, times=2)
    shared.fault("UpsertBucket", status=429, retry_after="1", times=1)
    log(sdk, "status")
    assert steps(sdk, "status") == list(range(10))
    assert [rule["times"] for rule in shared.faults()] == [0, 0]


def test_a_graphql_error_reaches_the_user_word_for_word(sdk: Any, shared: Server) -> None:
    shared.fault("UpsertBucket", error="the disk is full of eels", times=1)
    with pytest.raises(sdk.errors.Error, match="full of eels"):
        sdk.init(project="faults", id="error")


def test_a_delay_is_waited_for(sdk: Any, shared: Server) -> None:
    shared.fault("UpsertBucket", delay=0.3, times=1)
    log(sdk, "delay")
    assert steps(sdk, "delay") == list(range(10))


def test_any_operation_may_be_slow_in_its_bytes_too(sdk: Any, shared: Server, tmp_path: Path) -> None:
    sdk.init(project="faults", id="rate").finish()
    run = sdk.Api().run("ada/faults/rate")
    (tmp_path / "big.bin").write_bytes(b"x" * 300_000)
    shared.fault("*", rate=200_000.0)
    began = time.monotonic()
    run.upload_file(str(tmp_path / "big.bin"), root=str(tmp_path))
    sent = time.monotonic()
    run.file("big.bin").download(root=str(tmp_path / "got"))
    assert min(sent - began, time.monotonic() - sent) >= 300_000 / 200_000
    assert (tmp_path / "got" / "big.bin").read_bytes() == b"x" * 300_000


def test_an_answer_cut_off_does_not_double_what_was_stored(sdk: Any, shared: Server) -> None:
    """The message was stored and its answer lost: the client sends it again, to the same places."""
    with sdk.init(project="faults", id="cut") as run:
        run.log({"loss": 0})
        wait_for(lambda: steps(sdk, "cut"), "the first row")
        shared.fault("file_stream", drop_after=0, times=1)
        for step in range(1, 10):
            run.log({"loss": step})
    assert steps(sdk, "cut") == list(range(10))
    assert shared.faults()[0]["times"] == 0


def test_an_upload_cut_off_leaves_nothing_and_is_sent_again(sdk: Any, shared: Server, tmp_path: Path) -> None:
    sdk.init(project="faults", id="upload").finish()
    shared.fault("upload", drop_after=100_000, times=1)
    (tmp_path / "big.bin").write_bytes(b"x" * 3_000_000)
    run = sdk.Api().run("ada/faults/upload")
    try:
        run.upload_file(str(tmp_path / "big.bin"), root=str(tmp_path))
    except Exception:  # noqa: BLE001  (the client may give up: then nothing must be there)
        assert [file.name for file in run.files(names=["big.bin"])] == []
        run.upload_file(str(tmp_path / "big.bin"), root=str(tmp_path))
    assert run.file("big.bin").size == 3_000_000
    assert shared.faults()[0]["times"] == 0
    assert list((shared.data / "staging").iterdir()) == []


def test_a_download_cut_off_is_no_file(sdk: Any, shared: Server, tmp_path: Path) -> None:
    sdk.init(project="faults", id="download").finish()
    run = sdk.Api().run("ada/faults/download")
    (tmp_path / "big.bin").write_bytes(b"x" * 3_000_000)
    run.upload_file(str(tmp_path / "big.bin"), root=str(tmp_path))
    shared.fault("download", drop_after=100_000, times=1)
    try:
        run.file("big.bin").download(root=str(tmp_path / "got"))
    except Exception:  # noqa: BLE001  (either the client retries, or it says so)
        run.file("big.bin").download(root=str(tmp_path / "got"), replace=True)
    assert (tmp_path / "got" / "big.bin").read_bytes() == b"x" * 3_000_000


def test_after_and_times_say_which_requests(sdk: Any, shared: Server) -> None:
    shared.fault("GetViewer", error="third", after=2, times=1)
    query = "query GetViewer { viewer { username } }"
    ask = sdk.Api()._service_api.execute_graphql
    said = []
    for _ in range(4):
        try:
            said.append(ask(query)["viewer"]["username"])
        except Exception as error:  # noqa: BLE001
            said.append("third" if "third" in str(error) else str(error))
    assert said == ["ada", "ada", "third", "ada"]


def test_a_fault_that_means_nothing_is_refused(shared: Server) -> None:
    with pytest.raises(LocalError, match="speed"):
        shared.fault("upload", speed=1)
    with pytest.raises(LocalError, match="one of status"):
        shared.fault("upload", status=500, crash=True)
    with pytest.raises(LocalError, match="one of status"):
        shared.fault("upload")


def test_a_crash_before_the_commit_leaves_what_was_before(own: Callable[..., Any], tmp_path: Path) -> None:
    there = own()
    with there.init(project="p", id="one") as run:
        there.server.fault("file_stream", crash=True)
        for step in range(50):
            run.log({"loss": step})
        assert there.server.wait_for_exit() == CRASH_CODE
        there.server.start()
    read = there.run("ada/p/one")
    assert (read.state, [row["loss"] for row in read.scan_history()]) == ("finished", list(range(50)))

    there.server.fault("upload", crash=True)
    (tmp_path / "big.bin").write_bytes(b"x" * 100_000)
    send = threading.Thread(target=read.upload_file, args=(str(tmp_path / "big.bin"), str(tmp_path)))
    send.start()
    assert there.server.wait_for_exit() == CRASH_CODE
    with closing(sqlite3.connect(there.server.data / "server.sqlite")) as db:
        assert db.execute("SELECT key FROM slots WHERE key LIKE '%big.bin'").fetchall() == []
    there.server.start()
    send.join()
    assert there.run("ada/p/one").file("big.bin").size == 100_000
