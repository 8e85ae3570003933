"""Parquet files through pyarrow and fsspec: a row group at a time, by ranged reads of the wanted columns.

Files are listed once, sorted by name; all that is known of them comes from their footers.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from mlenv.data import decode
from mlenv.data.catalogue import Catalogue, File
from mlenv.data.errors import SchemaMismatch, Unreadable
from mlenv.data.fetch import Fetcher, Sparse, coalesce
from mlenv.data.listing import listed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mlenv.data.columns import Columns
    from mlenv.data.decode import Number

TAIL: Final = 64 << 10
"""What is read of a file's end at first; most footers are smaller."""
GAP: Final = 256 << 10
"""Unwanted bytes that cost less than another request."""
LONGEST: Final = 64 << 20
"""The largest single request."""
FOOTERS_AT_ONCE: Final = 16
FOOTERS_KEPT: Final = 64


class Parquet:
    """A Source of Parquet files: a path or URL of a file, a folder or a glob, or a list of them.

    `columns` are the features to read (all). `hash` gives texts and ids a number of buckets, `fill` says what
    stands for null; without it a null is an error. `patience` is how many seconds a read is tried again;
    `storage` goes to fsspec, such as {"endpoint_url": ...} for S3. Raises DataError.
    """

    def __init__(
        self,
        paths: str | Path | Sequence[str | Path],
        columns: Sequence[str] | None = None,
        *,
        hash: Mapping[str, int] | None = None,  # noqa: A002  (it is the word for it)
        fill: Mapping[str, Number] | None = None,
        patience: float = 120.0,
        storage: Mapping[str, Any] | None = None,
    ) -> None:
        every = [str(path) for path in paths] if isinstance(paths, list | tuple) else [str(paths)]
        self._options = decode.Options(hash=dict(hash or {}), fill=dict(fill or {}))
        fs, self._found = listed(every, dict(storage or {}))
        self._fetcher = Fetcher(fs, patience)
        self._footer = lru_cache(FOOTERS_KEPT)(self._read_footer)
        first = self._footer(0).schema.to_arrow_schema()
        self._types = self._chosen(first, columns)
        self.catalogue: Final = self._scan()

    def read(self, group: int) -> Columns:
        """The columns of one row group. Raises Unreadable and SchemaMismatch, naming file and column."""
        number, inner = self.catalogue.locate(group)
        where = f"{self._found[number].path}, row group {inner}"
        table = self._table(number, inner, where)
        try:
            return {name: decode.decode(name, table.column(name), self._options) for name in self._types}
        except SchemaMismatch as error:
            raise SchemaMismatch(f"{where}: {error}") from error

    # -- once, at the beginning

    def _chosen(self, schema: pa.Schema, columns: Sequence[str] | None) -> dict[str, pa.DataType]:
        missing = [name for name in columns or () if name not in schema.names]
        if missing:
            raise SchemaMismatch(
                f"{self._found[0].path} has no column {', '.join(missing)}: it has {', '.join(schema.names)}"
            )
        chosen = {name: schema.field(name).type for name in columns or schema.names}
        for name, kind in chosen.items():
            try:
                decode.check(name, kind, self._options)
            except SchemaMismatch as error:
                raise SchemaMismatch(f"{self._found[0].path}: {error}") from error
        return chosen

    def _scan(self) -> Catalogue:
        with ThreadPoolExecutor(FOOTERS_AT_ONCE, "mlenv-footers") as pool:
            scanned = list(pool.map(self._scan_file, range(len(self._found))))
        return Catalogue(tuple(file for file, _ in scanned), max(widest for _, widest in scanned))

    def _scan_file(self, number: int) -> tuple[File, int]:
        found, footer = self._found[number], self._read_footer(number)
        schema = footer.schema.to_arrow_schema()
        for name, kind in self._types.items():
            has = schema.field(name).type if name in schema.names else None
            if has != kind:
                raise SchemaMismatch(
                    f"{found.path}: column {name} is {has or 'missing'}, not {kind} as in "
                    f"{self._found[0].path}: one data set has one schema; write this file anew, "
                    "or leave the column out with columns=[...]"
                )
        text = "\n".join(f"{column.name}: {column.type}" for column in schema)
        groups = tuple(footer.row_group(inner).num_rows for inner in range(footer.num_row_groups))
        file = File(found.name, found.size, groups, hashlib.sha256(text.encode()).hexdigest())
        return file, max((self._width(footer, inner) for inner in range(footer.num_row_groups)), default=0)

    def _width(self, footer: pq.FileMetaData, inner: int) -> int:
        """Bytes of a row group in memory, about: exact for numbers, what is stored for the rest."""
        group = footer.row_group(inner)
        known = [width for kind in self._types.values() if (width := decode.width(kind)) is not None]
        varied = {name for name, kind in self._types.items() if decode.width(kind) is None}
        chunks = (group.column(index) for index in range(group.num_columns))
        stored = sum(
            c.total_uncompressed_size for c in chunks if c.path_in_schema.partition(".")[0] in varied
        )
        return int(sum(known) * group.num_rows + stored)

    # -- files

    def _read_footer(self, number: int) -> pq.FileMetaData:
        found = self._found[number]
        try:
            file = self._sparse(number)
            file.load([(max(0, found.size - TAIL), found.size)])
            return pq.read_metadata(pa.PythonFile(file, mode="r"))
        except (pa.ArrowInvalid, OSError) as error:
            raise Unreadable(f"{found.path} is no whole Parquet file: {_line(error)}") from error

    def _table(self, number: int, inner: int, where: str) -> pa.Table:
        footer = self._footer(number)
        listed = self.catalogue.files[number].groups
        if footer.num_row_groups != len(listed) or footer.row_group(inner).num_rows != listed[inner]:
            raise Unreadable(
                f"{where}: the file is another one than when it was listed; add files, never rewrite them"
            )
        names = list(self._types)
        file = self._sparse(number)
        file.load(coalesce(_ranges(footer.row_group(inner), set(names)), GAP, LONGEST))
        try:
            return self._open(file, footer).read_row_group(inner, columns=names, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            broken = self._broken(file, footer, inner)
            raise Unreadable(
                f"{where}: column {', '.join(broken) or '?'} is damaged ({_line(error)}): "
                "restore the file, or leave it out"
            ) from error

    def _broken(self, file: Sparse, footer: pq.FileMetaData, inner: int) -> list[str]:
        """Which columns cannot be read."""
        broken = []
        for name in self._types:
            try:
                self._open(file, footer).read_row_group(inner, columns=[name], use_threads=False)
            except (pa.ArrowException, OSError):
                broken.append(name)
        return broken

    def _sparse(self, number: int) -> Sparse:
        found = self._found[number]
        return Sparse(found.size, lambda start, end: self._fetcher.fetch(found.path, start, end))

    @staticmethod
    def _open(file: Sparse, footer: pq.FileMetaData) -> pq.ParquetFile:
        return pq.ParquetFile(pa.PythonFile(file, mode="r"), metadata=footer)


def _line(error: BaseException) -> str:
    """Arrow's messages have several lines."""
    return " ".join(str(error).split())


def _ranges(group: pq.RowGroupMetaData, names: set[str]) -> list[tuple[int, int]]:
    """Where the chunks of these columns lie; a list's chunk is called `name.list.element`."""
    ranges = []
    for index in range(group.num_columns):
        chunk = group.column(index)
        if chunk.path_in_schema.partition(".")[0] in names:
            starts = [chunk.data_page_offset]
            if chunk.has_dictionary_page and chunk.dictionary_page_offset:
                starts.append(chunk.dictionary_page_offset)
            ranges.append((min(starts), min(starts) + chunk.total_compressed_size))
    return ranges
