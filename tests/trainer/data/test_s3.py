"""Parquet in an object store: a real S3 server, ranged reads, and its faults."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from datasets import ids, steps_of, world_of, write
from object_store import Faults, Proxy, Server

from mlenv.data import Parquet, Stream, Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("s3"))
    yield server
    server.close()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server) as proxy:
        yield proxy


@pytest.fixture
def local(proxy: Proxy, tmp_path: Path) -> Path:
    """A data set here, and the same one in the store at s3://data/set."""
    import s3fs

    fs = s3fs.S3FileSystem(**proxy.storage())
    if not fs.exists("data"):
        fs.mkdir("data")
    elif fs.exists("data/set"):
        fs.rm("data/set", recursive=True)
    for number in range(3):
        name = f"part-{number}.parquet"
        write(tmp_path / name, 3000 * number, 3000, group=1000)
        fs.put_file(str(tmp_path / name), f"data/set/{name}")
    proxy.faults = Faults()
    return tmp_path


def source(proxy: Proxy, patience: float = 120.0) -> Parquet:
    return Parquet("s3://data/set", storage=proxy.storage(), patience=patience)


def test_a_world_reads_the_same_as_from_disk(proxy: Proxy, local: Path) -> None:
    options = {"batch": 100, "lanes": 4, "epochs": 1}
    here = list(steps_of(world_of(local, 1, **options)))
    there = source(proxy)
    assert there.catalogue.digest() == Parquet(local).catalogue.digest()
    assert list(steps_of(world_of(there, 2, **options))) == here
    assert all(ranged for path, ranged in proxy.faults.requests if path.endswith(".parquet"))


def test_a_state_from_disk_goes_on_in_the_store(proxy: Proxy, local: Path) -> None:
    disk = Stream(local, 100, rank=0, world=1)
    batches = iter(disk)
    for _ in range(5):
        next(batches)
    stream = Stream(source(proxy), 100, rank=0, world=1)
    stream.load_state_dict(disk.state_dict())
    assert ids(next(iter(stream))) == ids(next(batches))


def test_errors_for_a_while_and_truncated_answers_are_waited_out(
    proxy: Proxy, local: Path, caplog: pytest.LogCaptureFixture
) -> None:
    there = source(proxy)
    proxy.faults = Faults(errors=6, truncations=3, path="part-1")
    with caplog.at_level(logging.WARNING, "mlenv.data"):
        got = [one for step in Stream(there, 100, shuffle=False, rank=0, world=1) for one in ids(step)]
    assert got == list(range(9000))
    assert (proxy.faults.errors, proxy.faults.truncations) == (0, 0)
    assert "part-1.parquet" in caplog.text
    assert "trying again" in caplog.text


def test_a_store_that_stays_away_ends_with_its_name_and_keeps_the_position(proxy: Proxy, local: Path) -> None:
    stream = Stream(source(proxy, patience=0.0), 100, shuffle=False, rank=0, world=1, workers=0)
    got = []
    proxy.faults = Faults(errors=10**6, path="part-2")
    with pytest.raises(Unreadable, match=r"data/set/part-2.parquet could not be read for 0 s.*start again"):
        got.extend(one for step in stream for one in ids(step))
    assert got == list(range(6000))
    proxy.faults = Faults()
    assert [one for step in stream for one in ids(step)] == list(range(6000, 9000))


def test_an_object_deleted_in_the_middle(proxy: Proxy, local: Path, server: Server) -> None:
    stream = Stream(source(proxy), 100, shuffle=False, rank=0, world=1, workers=0)
    batches = iter(stream)
    next(batches)
    (server.folder / "data" / "set" / "part-1.parquet").unlink()
    with pytest.raises(Unreadable, match=r"part-1.parquet cannot be read: FileNotFoundError"):
        list(batches)
    assert stream.state_dict()["step"] == 30


def test_an_empty_prefix_and_no_bucket(proxy: Proxy, local: Path) -> None:
    with pytest.raises(Unreadable, match="data/nothing"):
        Parquet("s3://data/nothing", storage=proxy.storage())
    with pytest.raises(Unreadable, match="no-bucket"):
        Parquet("s3://no-bucket/x", storage=proxy.storage())
