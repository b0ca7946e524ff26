# SPDX-License-Identifier: MIT
"""Types of the running kernel's functions: as much of BTF as that takes (Documentation/bpf/btf)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path("/sys/kernel/btf")
"""A file for the kernel itself and one for each of its modules."""
KERNEL = "vmlinux"

_MAGIC = 0xEB9F
_HEADER = struct.Struct("<HBBIIIII")
_TYPE = struct.Struct("<III")
_INT, _TYPEDEF, _FUNC, _FUNC_PROTO = 1, 8, 12, 13
_CONST_AND_THE_LIKE = frozenset({_TYPEDEF, 9, 10, 11})
_SIGNED = 1 << 24
_MORE = {_INT: 4, 3: 12, 14: 4, 17: 4}
"""Bytes that follow a type of a kind."""
_MORE_EACH = {4: 12, 5: 12, 6: 8, _FUNC_PROTO: 8, 15: 12, 19: 12}
"""The same for each of its members, values or parameters."""


@dataclass(frozen=True)
class _Type:
    name: int
    kind: int
    of: int
    """The type that it refers to, or its size."""
    more: bytes


class Types:
    """All types of one file, those of the kernel itself before a module's."""

    def __init__(self, folder: Path, file: str) -> None:
        """Raises `OSError` where the kernel has no such file."""
        self._strings = b""
        self._types = [_Type(0, 0, 0, b"")]
        for name in dict.fromkeys((KERNEL, file)):
            self._read((folder / name).read_bytes())

    def _read(self, data: bytes) -> None:
        magic, _, _, header, types, types_size, strings, strings_size = _HEADER.unpack_from(data)
        assert magic == _MAGIC
        self._strings += data[header + strings : header + strings + strings_size]
        self._types += _types(data[header + types : header + types + types_size])

    def parameter_is_signed(self, function: str, number: int) -> bool | None:
        """Tell whether an integer parameter, from 0, is signed; None without such a function."""
        at = self._strings.find(b"\0" + function.encode() + b"\0") + 1
        found = next((t for t in self._types if at and t.name == at and t.kind == _FUNC), None)
        if found is None:
            return None
        _, type_ = struct.unpack_from("<II", self._types[found.of].more, 8 * number)
        parameter = self._types[type_]
        while parameter.kind in _CONST_AND_THE_LIKE:
            parameter = self._types[parameter.of]
        assert parameter.kind == _INT
        return bool(int.from_bytes(parameter.more, "little") & _SIGNED)


def _types(data: bytes) -> Iterator[_Type]:
    at = 0
    while at < len(data):
        name, info, of = _TYPE.unpack_from(data, at)
        kind, count = info >> 24 & 0x1F, info & 0xFFFF
        more = _MORE.get(kind, 0) + _MORE_EACH.get(kind, 0) * count
        at += _TYPE.size
        yield _Type(name, kind, of, data[at : at + more])
        at += more
