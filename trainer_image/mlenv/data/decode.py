"""From Arrow's columns to ours: numbers as they are, lists as ragged, texts by hash, never a silent null."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from mlenv.data.columns import Jagged
from mlenv.data.errors import SchemaMismatch
from mlenv.data.mix import hash_bytes, mix

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mlenv.data.columns import Column

Number: TypeAlias = int | float | bool | str
# torch knows no arithmetic on these: the next wider type that it has.
_WIDER = {"uint16": "int32", "uint32": "int64"}


@dataclass(frozen=True)
class Options:
    """What to do with columns that are not plain numbers."""

    hash: Mapping[str, int] = field(default_factory=dict)
    """Number of buckets, by column: texts and ids become numbers below it."""
    fill: Mapping[str, Number] = field(default_factory=dict)
    """What stands for null, by column."""


def check(name: str, kind: pa.DataType, options: Options) -> None:
    """Refuse a type that has no tensor. Raises SchemaMismatch with what to do."""
    inner = kind.value_type if _is_list(kind) or pt.is_dictionary(kind) else kind
    if pt.is_dictionary(inner):
        inner = inner.value_type
    if name in options.hash and (_is_text(inner) or pt.is_integer(inner)):
        return
    if _is_text(inner):
        raise SchemaMismatch(
            f"column {name} holds texts ({kind}): hash={{{name!r}: buckets}} makes numbers of them"
        )
    if pt.is_uint64(inner):
        raise SchemaMismatch(
            f"column {name} is {kind}, for which torch has no arithmetic: store it as int64, "
            f"or hash={{{name!r}: buckets}}"
        )
    plain = pt.is_integer(inner) or pt.is_floating(inner) or pt.is_boolean(inner) or pt.is_temporal(inner)
    if not plain:
        raise SchemaMismatch(f"column {name} is {kind}, which has no tensor: leave it out with columns=[...]")


def width(kind: pa.DataType) -> int | None:
    """Bytes of a row in memory; None where rows differ."""
    if pt.is_fixed_size_list(kind):
        inner = width(kind.value_type)
        return None if inner is None else inner * kind.list_size
    if _is_list(kind) or _is_text(kind) or pt.is_dictionary(kind):
        return None
    return max(1, int(kind.bit_width) // 8)


def decode(name: str, column: pa.ChunkedArray, options: Options) -> Column:
    """One column of a row group. Raises SchemaMismatch."""
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    kind = array.type
    if pt.is_fixed_size_list(kind):
        values = _flat(name, array.flatten(), options)
        if array.null_count:
            raise _nulls(name, array.null_count)
        return values.reshape(len(array), kind.list_size)
    if _is_list(kind):
        return _jagged(name, array, options)
    return _flat(name, array, options)


def _jagged(name: str, array: Any, options: Options) -> Jagged:
    if array.null_count and name not in options.fill:
        raise _nulls(name, array.null_count)
    # flatten() leaves null lists out, and so do the lengths, where null counts as 0.
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    offsets = np.zeros(len(array) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return Jagged(_flat(name, array.flatten(), options), offsets)


def _flat(name: str, array: Any, options: Options) -> NDArray[Any]:
    if pt.is_dictionary(array.type):
        array = array.dictionary_decode()
    if array.null_count:
        array = _filled(name, array, options)
    if name in options.hash:
        return _hashed(array, options.hash[name])
    if pt.is_temporal(array.type):
        array = array.cast(pa.int32() if array.type.bit_width == 32 else pa.int64())
    values = array.to_numpy(zero_copy_only=False)
    # A copy, because Arrow's pool keeps freed memory: twice what is in use, where nobody copies.
    plain: NDArray[Any] = values.astype(_WIDER.get(values.dtype.name, values.dtype))
    return plain


def _filled(name: str, array: Any, options: Options) -> Any:
    if name not in options.fill:
        raise _nulls(name, array.null_count)
    try:
        return array.fill_null(pa.scalar(options.fill[name], array.type))
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise SchemaMismatch(
            f"column {name} is {array.type}: fill cannot be {options.fill[name]!r}"
        ) from error


def _hashed(array: Any, buckets: int) -> NDArray[np.int64]:
    if pt.is_integer(array.type):
        words = mix(array.cast(pa.int64(), safe=False).to_numpy().astype(np.uint64))
    else:
        large = array.cast(pa.large_binary())
        _, offsets, data = large.buffers()
        ends = np.frombuffer(offsets, np.int64)[large.offset : large.offset + len(large) + 1]
        words = hash_bytes(np.frombuffer(data or b"", np.uint8), ends)
    return (words % np.uint64(buckets)).astype(np.int64)


def _nulls(name: str, count: int) -> SchemaMismatch:
    return SchemaMismatch(
        f"column {name} has {count} null(s): say what stands for them with fill={{{name!r}: ...}}"
    )


def _is_list(kind: pa.DataType) -> bool:
    return bool(pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pt.is_string(kind) or pt.is_large_string(kind) or pt.is_binary(kind) or pt.is_large_binary(kind)
    )
