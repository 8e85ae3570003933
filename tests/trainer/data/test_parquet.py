"""Parquet files on this machine: listing, types, damage, and what changes while it is read."""

from __future__ import annotations

import datetime as dt
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ids, sealed, steps_of, world_of, write

from mlenv.data import Parquet, Ragged, SchemaMismatch, Stream, Unreadable

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        write(tmp_path / "set" / f"part-{number}.parquet", 100 * number, 100, group=30)
    return tmp_path / "set"


def first(path: Path, **options: Any) -> Any:
    source = Parquet(path, **options)
    return next(iter(Stream(source, 2, lanes=1, rank=0, world=1, shuffle=False, workers=0)))


def table(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


class TestListing:
    def test_files_folders_globs_and_lists_are_the_same_rows(self, folder: Path) -> None:
        (folder / "_SUCCESS").write_text("")
        (folder / ".part-9.parquet.crc").write_text("")
        sources = [folder, f"{folder}/*.parquet", f"file://{folder}", sorted(folder.glob("part*"))]
        for source in sources:
            catalogue = Parquet(source).catalogue
            assert catalogue.sizes.tolist() == [30, 30, 30, 10] * 3

    def test_partitions_in_subfolders(self, tmp_path: Path) -> None:
        for day in (2, 1):
            write(tmp_path / f"day={day}" / "a.parquet", day, 5)
        assert [file.path for file in Parquet(tmp_path).catalogue.files] == [
            "day=1/a.parquet",
            "day=2/a.parquet",
        ]

    def test_a_copy_elsewhere_is_the_same_data(self, folder: Path, tmp_path: Path) -> None:
        digest = Parquet(folder).catalogue.digest()
        folder.rename(tmp_path / "moved")
        assert Parquet(tmp_path / "moved").catalogue.digest() == digest
        write(tmp_path / "moved" / "part-3.parquet", 300, 1)
        grown = Parquet(tmp_path / "moved").catalogue
        assert grown.digest() != digest == grown.digest(3)

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(Unreadable, match="no-such cannot be listed: FileNotFoundError"):
            Parquet(tmp_path / "no-such")
        with pytest.raises(Unreadable, match="there is no file named"):
            Parquet(tmp_path)
        with pytest.raises(Unreadable, match="no files were given"):
            Parquet([])

    def test_no_rows(self, tmp_path: Path) -> None:
        table(tmp_path / "a.parquet", x=pa.array([], pa.int64()))
        with pytest.raises(RuntimeError, match="no rows"):
            Stream(tmp_path, 1)


class TestReading:
    def test_a_world_reads_all_of_it_in_the_order_of_one(self, folder: Path) -> None:
        options = {"batch": 12, "lanes": 4, "epochs": 2}
        alone = list(steps_of(world_of(folder, 1, workers=0, **options)))
        streams = world_of(folder, 3, workers=2, **options)
        assert list(steps_of(streams)) == alone
        assert len(alone) == 50
        assert sealed(streams)["epoch"] == 2

    def test_only_the_columns_asked_for(self, folder: Path) -> None:
        assert list(first(folder, columns=["number"])) == ["number"]
        with pytest.raises(SchemaMismatch, match=r"part-0.parquet has no column price: it has number, list"):
            Parquet(folder, columns=["price"])

    def test_batches_are_ours_to_change(self, folder: Path) -> None:
        options = {"batch": 10, "lanes": 1, "rank": 0, "world": 1, "shuffle": False}
        for batch in islice(Stream(folder, **options), 3):
            batch["number"].zero_()
        assert [one for b in islice(Stream(folder, **options), 3) for one in ids(b)] == list(range(30))

    def test_nothing_stays_open(self, folder: Path) -> None:
        from pathlib import Path as Here

        stream = Stream(folder, 10, rank=0, world=1)
        batches = stream.batches()
        next(batches)
        opened = len(list(Here("/proc/self/fd").iterdir()))
        for _ in islice(batches, 200):
            pass
        assert len(list(Here("/proc/self/fd").iterdir())) <= opened + 2  # what two workers read right now


class TestTypes:
    def test_numbers_keep_their_type(self, tmp_path: Path) -> None:
        kinds = ["int8", "int16", "int32", "int64", "uint8", "float16", "float32", "float64"]
        columns = {kind: np.arange(4).astype(kind) for kind in kinds}
        batch = first(table(tmp_path / "a.parquet", bool=[True, False] * 2, **columns))
        assert {name: str(value.dtype).removeprefix("torch.") for name, value in batch.items()} == {
            **{kind: kind for kind in kinds},
            "bool": "bool",
        }

    def test_unsigned_numbers_become_the_next_type_that_torch_computes_with(self, tmp_path: Path) -> None:
        columns = {kind: np.array([1, 2**bits - 1], kind) for kind, bits in [("uint16", 16), ("uint32", 32)]}
        batch = first(table(tmp_path / "a.parquet", **columns))
        assert batch["uint16"].tolist() == [1, 65535]
        assert batch["uint32"].tolist() == [1, 2**32 - 1]

    def test_times_are_numbers_in_their_unit(self, tmp_path: Path) -> None:
        days = [dt.date(1970, 1, 2), dt.date(1970, 1, 11)]
        moments = pa.array([1_000, 2_000], pa.timestamp("ms"))
        batch = first(table(tmp_path / "a.parquet", day=days, at=moments))
        assert (batch["day"].tolist(), batch["at"].tolist()) == ([1, 10], [1000, 2000])

    def test_lists_are_ragged_and_lists_of_one_size_are_matrices(self, tmp_path: Path) -> None:
        ragged = pa.array([[1, 2, 3], []], pa.list_(pa.int32()))
        fixed = pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2))
        batch = first(table(tmp_path / "a.parquet", ragged=ragged, fixed=fixed))
        assert isinstance(batch["ragged"], Ragged)
        assert (batch["ragged"].values.tolist(), batch["ragged"].offsets.tolist()) == ([1, 2, 3], [0, 3, 3])
        assert batch["fixed"].tolist() == [[1, 2], [3, 4]]
        moved = batch.to("cpu")
        assert (moved.rows, moved["ragged"].rows, moved["ragged"].lengths.tolist()) == (2, 2, [3, 0])

    def test_texts_are_hashed_when_asked(self, tmp_path: Path) -> None:
        texts = ["a", "b", "a", "c"]
        path = table(
            tmp_path / "a.parquet",
            plain=texts,
            coded=pa.array(texts).dictionary_encode(),
            tags=[["a"], ["b", "a"], [], ["c"]],
            number=[1, 2, 3, 4],
        )
        batch = first(path, hash={"plain": 50, "coded": 50, "tags": 50, "number": 10})
        stream = Stream(
            Parquet(path, hash={"plain": 50, "coded": 50, "tags": 50, "number": 10}),
            4,
            rank=0,
            world=1,
            shuffle=False,
        )
        (whole,) = stream
        assert whole["plain"].dtype == torch.int64
        assert torch.equal(whole["plain"], whole["coded"])
        assert whole["plain"].tolist()[0] == whole["plain"].tolist()[2] == whole["tags"].values.tolist()[0]
        assert 0 <= int(whole["number"].min()) <= int(whole["number"].max()) < 10
        assert torch.equal(batch["plain"], whole["plain"][:2])

    @pytest.mark.parametrize(
        ("column", "sentence"),
        [
            (["a", "b"], r"column x holds texts \(string\): hash={'x': buckets}"),
            (pa.array([1, 2], pa.uint64()), "no arithmetic: store it as int64, or hash="),
            ([{"a": 1}, {"a": 2}], r"column x is struct<a: int64>.*leave it out with columns=\[...\]"),
            ([[[1]], [[2]]], "has no tensor"),
            (pa.array([1, 2], pa.decimal128(5, 2)), "has no tensor"),
        ],
    )
    def test_what_has_no_tensor_is_refused_at_once(self, tmp_path: Path, column: Any, sentence: str) -> None:
        with pytest.raises(SchemaMismatch, match=rf"a.parquet: .*{sentence}"):
            Parquet(table(tmp_path / "a.parquet", x=column))

    def test_nulls_are_filled_or_refused(self, tmp_path: Path) -> None:
        path = table(tmp_path / "a.parquet", x=[1, None], t=["a", None], r=[[1, None], None])
        hashed = {"t": 100}
        with pytest.raises(
            SchemaMismatch, match=r"a.parquet, row group 0: column x has 1 null.*fill={'x': ...}"
        ):
            first(path, hash=hashed)
        batch = first(path, hash=hashed, fill={"x": -1, "t": "", "r": 0})
        assert batch["x"].tolist() == [1, -1]
        assert (batch["r"].values.tolist(), batch["r"].offsets.tolist()) == ([1, 0], [0, 2, 2])
        with pytest.raises(SchemaMismatch, match="fill cannot be 'none'"):
            first(path, hash=hashed, fill={"x": "none", "t": "", "r": 0})


class TestDamage:
    def test_a_schema_that_changes_in_the_middle(self, folder: Path) -> None:
        pq.write_table(pa.table({"number": [1.5], "list": [[1]]}), folder / "part-1.parquet")
        with pytest.raises(
            SchemaMismatch, match=r"part-1.parquet: column number is double, not int64 as in .*part-0"
        ):
            Parquet(folder)
        assert Parquet(folder, columns=["list"]).catalogue.sizes.sum() == 201
        pq.write_table(pa.table({"number": [1]}), folder / "part-1.parquet")
        with pytest.raises(SchemaMismatch, match=r"part-1.parquet: column list is missing"):
            Parquet(folder)

    @pytest.mark.parametrize("keep", [0, 3, 500])
    def test_a_file_that_ends_too_early(self, folder: Path, keep: int) -> None:
        path = folder / "part-2.parquet"
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(Unreadable, match=r"part-2.parquet is no whole Parquet file"):
            Parquet(folder)

    def test_damaged_bytes_name_file_and_column(self, folder: Path) -> None:
        path = folder / "part-1.parquet"
        chunk = pq.read_metadata(path).row_group(2).column(1)
        data = bytearray(path.read_bytes())
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        data[start : start + 40] = b"\xff" * 40
        path.write_bytes(data)
        stream = Stream(folder, 10, rank=0, world=1, shuffle=False)
        got = []
        with pytest.raises(
            Unreadable, match=r"part-1.parquet, row group 2: column list is damaged.*restore the file"
        ):
            got.extend(iter(stream))
        assert len(got) == 16  # everything before it came
        assert stream.state_dict()["step"] == 16

    def test_a_file_deleted_in_the_middle_keeps_the_position(self, folder: Path) -> None:
        path = folder / "part-1.parquet"
        data = path.read_bytes()
        stream = Stream(folder, 10, rank=0, world=1, shuffle=False, workers=2)
        plain = [batch.ids.tolist() for batch in Stream(folder, 10, rank=0, world=1, shuffle=False)]
        path.unlink()
        got = []
        with pytest.raises(Unreadable, match=r"part-1.parquet cannot be read: FileNotFoundError"):
            got.extend(batch.ids.tolist() for batch in stream)
        path.write_bytes(data)
        stream_ids = [batch.ids.tolist() for batch in stream]
        assert stream_ids == plain[10:]

    def test_a_file_that_was_rewritten_is_noticed(self, folder: Path) -> None:
        stream = Stream(folder, 10, rank=0, world=1, shuffle=False, workers=0)
        path = folder / "part-1.parquet"
        size = path.stat().st_size
        write(path, 0, 60, group=30)
        path.write_bytes(path.read_bytes().ljust(size, b" "))
        with pytest.raises(Unreadable, match=r"part-1.parquet"):
            list(stream)
