# SPDX-License-Identifier: MIT
"""Records of system calls: made from the very structures that the kernel was given."""

from __future__ import annotations

import threading

from pyvmm.hosts.call_fields import length_field, range_fields
from pyvmm.hosts.call_record import (
    Field,
    Made,
    Recorder,
    SystemCall,
    meaning_of,
    number_field,
    vm_type_name,
)
from pyvmm.hosts.kvm.binding import CData, ffi, issue
from pyvmm.hosts.kvm.constants import Cap
from pyvmm.hosts.kvm.descriptor import Descriptor
from pyvmm.hosts.kvm.errors import KvmError
from pyvmm.hosts.kvm.ioctls import Direction, FdKind, IoctlSpec

_MAP_FLAGS = {1: "MAP_SHARED", 0x10: "MAP_FIXED", 0x4000: "MAP_NORESERVE"}
_GIVEN = frozenset({Direction.WRITE, Direction.READ_WRITE})
_RETURNED = frozenset({Direction.READ, Direction.READ_WRITE})


def record_call(
    spec: IoctlSpec, on: Descriptor, argument: CData | int, described: str, kind: FdKind | None
) -> int:
    """Issue an ioctl as `binding.call` does, and tell `on.recorder`. Raises `KvmError`."""
    is_structure = spec.direction is not Direction.NONE
    given = fields_of(argument, spec.argument) if is_structure else _value(spec, argument)
    result, number = -1, 0
    try:
        result = issue(spec, on.fd, argument, described, kind)
    except KvmError as error:
        number = error.errno
        raise
    finally:
        # KVM_SET_IRQCHIP is declared as one that the kernel writes to, which it does not do.
        written = spec.direction in _RETURNED and not spec.name.startswith("KVM_SET_")
        made = SystemCall(
            made=Made.KERNEL,
            name="ioctl",
            request=spec.name,
            target=f"{(kind or spec.kind).value} fd {on.fd}",
            structure=spec.argument if is_structure else "",
            given=given if not is_structure or spec.direction in _GIVEN or not written else (),
            returned=fields_of(argument, spec.argument) if written else (),
            result=result,
            errno=number,
            section=f"api.rst {spec.section}",
            thread=threading.current_thread().name,
        )
        if on.recorder is not None:
            on.recorder.call(made)
    return result


def tell(
    recorder: Recorder | None,
    name: str,
    target: str,
    result: int,
    *given: Field,
    request: str = "",
) -> None:
    """Tell `recorder`, if there is one, of a call other than an ioctl.

    `result`: what it returned, a negative errno where it failed.
    """
    if recorder is not None:
        recorder.call(
            SystemCall(
                made=Made.KERNEL,
                name=name,
                request=request,
                target=target,
                structure="",
                given=given,
                returned=(),
                result=max(result, -1),
                errno=max(0, -result),
                section=f"{name}(2)",
                thread=threading.current_thread().name,
            )
        )


def tell_range(
    recorder: Recorder,
    name: str,
    target: str,
    where: tuple[str, int, int],
    result: int,
    *,
    request: str = "",
) -> None:
    """Tell of a call on a range of bytes, `where`: what it starts at, the start, its size."""
    start_name, start, size = where
    given = range_fields(start_name, start, size)
    tell(recorder, name, target, result, *given, request=request)


def tell_map(recorder: Recorder, target: str, hva: int, size: int, flags: int) -> None:
    """Tell of mmap(2), of a file from its beginning; `hva` is the result."""
    names = "|".join(name for bit, name in _MAP_FLAGS.items() if flags & bit)
    tell(recorder, "mmap", target, hva, length_field(size), number_field("flags", flags, 4, names))


def tell_memfd(recorder: Recorder, fd: int, size: int) -> None:
    """Tell of memfd_create(2) and ftruncate(2)."""
    tell(recorder, "memfd_create", "pyvmm-guest", fd, request="MFD_CLOEXEC")
    tell(recorder, "ftruncate", f"memfd fd {fd}", 0, length_field(size))


def fields_of(argument: CData, structure: str) -> tuple[Field, ...]:
    """The fields of what `argument` points to, as they are in memory now; () for a null pointer."""
    if argument == ffi.NULL:
        return ()
    # As the argument itself has it: a type declared at run time is none of the compiled part's.
    declared = ffi.typeof(argument).item
    raw = bytes(ffi.buffer(argument))
    if declared.kind == "primitive":
        return (Field("value", raw, 0, int.from_bytes(raw, "little")),)
    found = []
    for name, field in declared.fields:
        is_open = field.type.kind == "array" and field.type.length is None
        end = len(raw) if is_open else field.offset + ffi.sizeof(field.type)
        content = raw[field.offset : end]
        value = int.from_bytes(content, "little") if field.type.kind == "primitive" else None
        meaning = "" if value is None else _meaning(structure, name, value)
        found.append(Field(name, content, field.offset, value, meaning))
    return tuple(found)


def _meaning(structure: str, name: str, value: int) -> str:
    if structure == "struct kvm_enable_cap" and name == "cap" and value in set(Cap):
        return f"KVM_CAP_{Cap(value).name}"
    return meaning_of(structure, name, value)


def _value(spec: IoctlSpec, argument: CData | int) -> tuple[Field, ...]:
    if not spec.argument:
        return ()
    meaning = vm_type_name(int(argument)) if spec.name == "KVM_CREATE_VM" else ""
    return (number_field("argument", int(argument), meaning=meaning),)
