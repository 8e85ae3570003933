"""The struct types of a Go program, read from the type descriptors that its linker keeps for reflection.

encoding/json needs the fields' tags at run time, so they are in every binary, stripped or not. The layout is
`internal/abi`'s of Go 1.26 and 1.27 (64 bits, little endian); a program that is laid out otherwise gives no
structs at all, and who reads them must say how many it expects.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_KIND_STRUCT, _KIND_MASK = 25, 31
_HAS_TAG, _EXTRA_STAR = 2, 2
_MOST_FIELDS = 200


@dataclass(frozen=True)
class Field:
    """A field: its tag (`json:"name,omitempty"`) and its type as Go writes it (`*string`)."""

    tag: str
    type: str

    @property
    def json(self) -> str:
        """The name under which encoding/json writes it; empty where there is no such tag."""
        return self.tag.partition('json:"')[2].partition('"')[0].partition(",")[0]

    @property
    def always_sent(self) -> bool:
        """Whether it is written even when it is nil."""
        return ",omitempty" not in self.tag

    @property
    def nullable(self) -> bool:
        """Whether null can be what is written."""
        return self.type.startswith(("*", "[]", "map["))


class TypeSection:
    """The section `.go.type` of an ELF file."""

    def __init__(self, program: Path) -> None:
        data = program.read_bytes()
        start, offset, size = _section(data, b".go.type")
        self._start, self._bytes = start, data[offset : offset + size]

    def structs(self, package: str) -> dict[str, tuple[Field, ...]]:
        """Every struct of a package, by its name without the package."""
        prefix = package + "."
        found = ((name, at) for at, name in self._named_structs() if name.startswith(prefix))
        return {name.removeprefix(prefix): tuple(self._fields(at)) for name, at in found}

    def _named_structs(self) -> Iterator[tuple[int, str]]:
        for at in range(0, len(self._bytes) - 80, 8):
            if self._bytes[at + 23] & _KIND_MASK == _KIND_STRUCT and self._has_fields(at):
                try:
                    yield at, self._type_name(at)
                except (IndexError, UnicodeDecodeError, struct.error):
                    continue  # bytes that only looked like a type

    def _has_fields(self, at: int) -> bool:
        fields, length, capacity = struct.unpack_from("<QQQ", self._bytes, at + 56)
        inside = self._start <= fields < self._start + len(self._bytes) - 24 * length
        return bool(length == capacity and 0 < length < _MOST_FIELDS and inside)

    def _fields(self, at: int) -> Iterator[Field]:
        fields, length, _ = struct.unpack_from("<QQQ", self._bytes, at + 56)
        for number in range(length):
            name, kind, _ = struct.unpack_from("<QQQ", self._bytes, fields - self._start + 24 * number)
            yield Field(self._name(name - self._start)[1], self._type_name(kind - self._start))

    def _type_name(self, at: int) -> str:
        (offset,) = struct.unpack_from("<i", self._bytes, at + 40)
        if offset <= 0:
            raise IndexError(offset)
        name = self._name(offset)[0]
        return name[1:] if self._bytes[at + 20] & _EXTRA_STAR else name

    def _name(self, at: int) -> tuple[str, str]:
        """A name and its tag."""
        name, end = self._text(at + 1)
        return name, self._text(end)[0] if self._bytes[at] & _HAS_TAG else ""

    def _text(self, at: int) -> tuple[str, int]:
        length = shift = 0
        while True:
            byte = self._bytes[at]
            at, length, shift = at + 1, length | (byte & 127) << shift, shift + 7
            if byte < 128:
                return self._bytes[at : at + length].decode(), at + length


def _section(data: bytes, wanted: bytes) -> tuple[int, int, int]:
    """Address, offset and size of a section of an ELF file."""
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("no 64-bit little-endian ELF file")
    (table,) = struct.unpack_from("<Q", data, 0x28)
    each, count, names = struct.unpack_from("<HHH", data, 0x3A)
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, table + each * number) for number in range(count)]
    texts = headers[names][4]
    for header in headers:
        if data.startswith(wanted + b"\0", texts + header[0]):
            return header[3], header[4], header[5]
    raise ValueError(f"no section {wanted.decode()}")
