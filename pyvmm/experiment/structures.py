# SPDX-License-Identifier: MIT
"""Objects of declared C types: fields as attributes, bytes, an address for the kernel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pyvmm.errors import UsageError

if TYPE_CHECKING:
    from pyvmm.hosts.kvm.declared_types import DeclaredTypes

_MOST_SAID = 8
"""Elements of an array that are spelled out."""
_AGGREGATES = frozenset({"struct", "union", "array"})


class Structure:
    """An object of a declared type, made by `Declarations.new` or `Declarations.view`.

    Its fields are its attributes: integers, and `Structure` for structures, unions and arrays.
    `bytes` gives the content, `len` the number of an array's elements or the size in bytes. What
    else there is to do with it are functions of this module, so that no field's name is taken.
    A field that is not there, or a value that does not fit, is a `UsageError`; reading one that is
    not there an `AttributeError`. An object whose address a field has lives as long as this one.
    """

    __slots__ = ("_data", "_kept", "_memory", "_types")

    _data: Any
    _kept: dict[tuple[int, str | int], Structure]
    _memory: object
    _types: DeclaredTypes

    def __init__(self, types: DeclaredTypes, data: Any, memory: object = None) -> None:
        """`data` is cffi's: a pointer to a structure or a value, a reference to one, or an array.

        `memory` is kept alive by it.
        """
        put = object.__setattr__
        put(self, "_types", types)
        put(self, "_data", data)
        put(self, "_memory", memory)
        # A part of an object goes before the object does.
        put(self, "_kept", memory._kept if isinstance(memory, Structure) else {})

    def __getattr__(self, name: str) -> Any:
        try:
            value = getattr(self._data, name)
        except AttributeError:
            raise AttributeError(_no_field(self, name)) from None
        return value if type(value) is int else _wrapped(self, value)

    def __setattr__(self, name: str, value: object) -> None:
        put(self, name, value)

    def __getitem__(self, index: int) -> Any:
        try:
            value = self._data[index]
        except (TypeError, IndexError) as error:
            raise IndexError(f"{type_of(self)}: {error}") from None
        return value if type(value) is int else _wrapped(self, value)

    def __setitem__(self, index: int, value: object) -> None:
        try:
            self._data[index] = _plain(value)
        except (TypeError, OverflowError, IndexError, ValueError) as error:
            raise UsageError(f"set element {index} of {type_of(self)}", str(error)) from None
        _keep(self, index, value)

    def __len__(self) -> int:
        is_array = self._types.ffi.typeof(self._data).kind == "array"
        return len(self._data) if is_array else len(bytes(self))

    def __iter__(self) -> Iterator[Any]:
        is_array = self._types.ffi.typeof(self._data).kind == "array"
        return (self[index] for index in range(len(self._data) if is_array else 0))

    def __bytes__(self) -> bytes:
        return bytes(self._types.ffi.buffer(_pointer(self)))

    def __dir__(self) -> list[str]:
        return [one.name for one in self._types.fields_of(type_of(self))]

    def __repr__(self) -> str:
        return f"<{type_of(self)} {spell(self)}>"


def type_of(structure: Structure) -> str:
    """The C type of its content."""
    ffi = structure._types.ffi
    found = ffi.typeof(structure._data)
    name: str = (found.item if found.kind == "pointer" else found).cname
    return name


def address_of(structure: Structure) -> int:
    """Host virtual address of the content, which is there as long as the object is."""
    ffi = structure._types.ffi
    return int(ffi.cast("uintptr_t", _pointer(structure)))


def spell(structure: Structure) -> str:
    """The fields in one line, those that are zero left out; of an array its elements."""
    types = structure._types
    fields = types.fields_of(type_of(structure))
    if not fields:
        return _spell_elements(structure)
    said, taken = [], 0
    for field in fields:
        # Of fields that share their place the first one speaks for all.
        if 0 <= field.offset < taken:
            continue
        taken = field.offset + max(field.size, 0)
        value = getattr(structure, field.name)
        if not _is_zero(value):
            said.append(f"{field.name}={_spell_value(value)}")
    return " ".join(said)


def _spell_elements(structure: Structure) -> str:
    """An array without the zeroes at its end, or a value that is alone."""
    ffi = structure._types.ffi
    if ffi.typeof(structure._data).kind != "array":
        return _spell_value(structure[0])
    elements = list(structure)
    while elements and _is_zero(elements[-1]):
        elements.pop()
    if elements and isinstance(elements[0], bytes):
        return repr(b"".join(elements))
    said = [_spell_value(one) for one in elements[:_MOST_SAID]]
    if len(elements) > _MOST_SAID:
        said.append(f"{len(elements) - _MOST_SAID} more")
    return f"[{', '.join(said)}]"


def _spell_value(value: object) -> str:
    if isinstance(value, Structure):
        text = spell(value)
        return f"{{{text}}}" if value.__dir__() else text
    if type(value) is int:
        return f"{value:#x}" if value > 9 else str(value)
    return repr(value)


def _is_zero(value: object) -> bool:
    return not any(bytes(value)) if isinstance(value, Structure) else value in {0, b"\0"}


def put(structure: Structure, name: str, value: object) -> None:
    """Set a field; one of integers takes another object's address. Raises `UsageError`."""
    given = value
    try:
        if isinstance(value, Structure) and not _is_aggregate(structure, name):
            given = address_of(value)
        setattr(structure._data, name, _plain(given))
    except AttributeError:
        raise UsageError(
            f"set {name} of {type_of(structure)}", _no_field(structure, name)
        ) from None
    except (TypeError, OverflowError, ValueError, IndexError) as error:
        raise UsageError(f"set {name} of {type_of(structure)}", str(error)) from None
    _keep(structure, name, value)


def _keep(structure: Structure, place: str | int, value: object) -> None:
    """Keep what a field or an element has the address of, or parts with such addresses."""
    key = address_of(structure), place
    if isinstance(value, Structure):
        structure._kept[key] = value
    elif structure._kept:
        structure._kept.pop(key, None)


def extent_of(structure: Structure) -> int | None:
    """Bytes of its memory, a flexible array's elements counted in; None: it is part of another."""
    memory = structure._memory
    if isinstance(memory, Structure):
        return None
    if memory is None:
        return len(bytes(structure))
    return memoryview(memory).nbytes  # type: ignore[arg-type]


def _is_aggregate(structure: Structure, name: str) -> bool:
    ffi = structure._types.ffi
    fields = dict(ffi.typeof(type_of(structure)).fields or ())
    return name in fields and fields[name].type.kind in _AGGREGATES


def _plain(value: object) -> Any:
    if not isinstance(value, Structure):
        return value
    data = value._data
    is_pointer = value._types.ffi.typeof(data).kind == "pointer"
    return data[0] if is_pointer else data


def _pointer(structure: Structure) -> Any:
    data = structure._data
    ffi = structure._types.ffi
    return data if ffi.typeof(data).kind in {"pointer", "array"} else ffi.addressof(data)


def _wrapped(structure: Structure, value: Any) -> Any:
    types = structure._types
    ffi = types.ffi
    if not isinstance(value, ffi.CData):
        return value
    if ffi.typeof(value).kind in {"pointer", "function"}:
        return int(ffi.cast("uintptr_t", value))
    return Structure(types, value, structure)


def _no_field(structure: Structure, name: str) -> str:
    known = ", ".join(structure.__dir__())
    return f"it has no field {name!r}" + (f"; its fields are {known}" if known else "")
