# SPDX-License-Identifier: MIT
"""C types declared at run time: layouts by cffi's parser, without a compiler (System V ABI)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import cffi

if TYPE_CHECKING:  # Types can be declared where the compiled part is not there, too.
    from pyvmm.hosts.kvm.binding import CData

_BASE = """
typedef uint8_t __u8; typedef uint16_t __u16; typedef uint32_t __u32;
typedef int8_t __s8; typedef int16_t __s16; typedef int32_t __s32;
typedef unsigned long long __u64; typedef long long __s64;
typedef uint8_t u8; typedef uint16_t u16; typedef uint32_t u32; typedef unsigned long long u64;
typedef int8_t s8; typedef int16_t s16; typedef int32_t s32; typedef long long s64;
typedef uint16_t __le16; typedef uint32_t __le32; typedef unsigned long long __le64;
typedef uint16_t __be16; typedef uint32_t __be32; typedef unsigned long long __be64;
typedef unsigned long long __aligned_u64; typedef long long __aligned_s64;
"""
BASE_NAMES = frozenset(re.findall(r"(\w+);", _BASE))
"""Names of the kernel's types of integers, which need no declaration."""
_PLAIN = frozenset({"primitive", "enum"})


class TypeRefusedError(Exception):
    """A declaration that is not understood; the text says why."""


class FieldType(NamedTuple):
    """A field: name, C type, offset and size in bytes; a size of -1 is a flexible array's."""

    name: str
    type: str
    offset: int
    size: int


class DeclaredTypes:
    """Types that have been declared so far. Raises `TypeRefusedError` for what cannot be."""

    def __init__(self) -> None:
        self._ffi: Any = cffi.FFI()
        self._ffi.cdef(_BASE)
        self._tried = 0

    def add(self, declaration: str, *, packed: bool) -> None:
        """Take a structure, union, enumeration or typedef, all that it is made of being known."""
        try:
            self._ffi.cdef(f"{declaration};", packed=packed)
        except Exception as error:
            raise TypeRefusedError(_first_line(error)) from error

    def changes_when_packed(self, aggregate: str) -> bool:
        """Tell whether "struct { ... }" has padding, or fields elsewhere, unless it is packed."""
        layouts = []
        kind, _, body = aggregate.partition(" ")
        for packed in (False, True):
            self._tried += 1
            name = f"{kind} pyvmm_tried_{self._tried}"
            self.add(f"{name} {body}", packed=packed)
            layouts.append((self.size_of(name), self.fields_of(name)))
        return layouts[0] != layouts[1]

    def size_of(self, type_name: str) -> int:
        """Size in bytes, a flexible array's elements left out."""
        return int(self._ask(self._ffi.sizeof, type_name))

    def alignment_of(self, type_name: str) -> int:
        """Alignment in bytes."""
        return int(self._ask(self._ffi.alignof, type_name))

    def fields_of(self, type_name: str) -> Sequence[FieldType]:
        """Fields of a structure or union, in order; none for other types."""
        found = self._ask(self._ffi.typeof, type_name)
        return fields_of_type(self._ffi, found) if found.kind in {"struct", "union"} else ()

    def is_open(self, type_name: str) -> bool:
        """Tell whether it ends with an array whose number of elements no declaration tells."""
        return _is_open(self._ask(self._ffi.typeof, type_name))

    def new(self, type_name: str, *, length: int | None = None) -> CData:
        """A zeroed object, as a pointer that owns it; `length`: elements of its flexible array."""
        found = self._ask(self._ffi.typeof, type_name)
        pointer = found if found.kind == "array" else self._pointer_to(found)
        if length is None:
            return self._ask(self._ffi.new, pointer)
        last = found.fields[-1][0]
        return self._ask(self._ffi.new, pointer, {last: length})

    def at(self, type_name: str, buffer: object) -> CData:
        """A pointer of that type into writable `buffer`, which it keeps alive."""
        found = self._ask(self._ffi.typeof, type_name)
        pointer = found if found.kind == "array" else self._pointer_to(found)
        return self._ask(self._ffi.from_buffer, pointer, buffer, require_writable=True)

    def pointer_to(self, type_name: str) -> object:
        """The type of a pointer to it, for `new_at`."""
        return self._ask(self._ffi.typeof, f"{type_name} *")

    @property
    def ffi(self) -> Any:
        """The cffi object that the types are of."""
        return self._ffi

    def _pointer_to(self, found: Any) -> Any:
        """The type of a pointer to it, a function pointer's name being around its star."""
        return self._ffi.typeof(self._ffi.getctype(found, "*"))

    def _ask(self, function: Any, *given: object, **named: object) -> Any:
        try:
            return function(*given, **named)
        except Exception as error:
            raise TypeRefusedError(_first_line(error)) from error


def fields_of_type(ffi: Any, found: Any) -> Sequence[FieldType]:
    """Fields of a structure's or union's type; those of unnamed ones in it take its place."""

    def each(kind: Any, base: int) -> Iterable[FieldType]:
        for name, field in kind.fields or ():
            if not name:
                yield from each(field.type, base + field.offset)
                continue
            is_open = field.type.kind == "array" and field.type.length is None
            size = -1 if is_open else ffi.sizeof(field.type)
            yield FieldType(name, field.type.cname, base + field.offset, size)

    return tuple(each(found, 0))


def _is_open(found: Any) -> bool:
    if found.kind == "array":
        return not found.length
    fields = found.fields or () if found.kind in {"struct", "union"} else ()
    return any(_is_open(one.type) for _, one in (fields if found.kind == "union" else fields[-1:]))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = next((line for line in lines if not line.startswith("cannot parse")), "")
    return text or " ".join(lines) or type(error).__name__
