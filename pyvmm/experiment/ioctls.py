# SPDX-License-Identifier: MIT
"""Ioctls that are declared at run time, issued on the same objects as those that are built in."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NamedTuple

from pyvmm.errors import HostLacksError, UsageError
from pyvmm.experiment.structures import Structure, address_of, extent_of, put, spell, type_of
from pyvmm.hosts.kvm.calling import call
from pyvmm.hosts.kvm.errors import KvmError
from pyvmm.hosts.kvm.ioctls import Direction, FdKind, IoctlSpec

if TYPE_CHECKING:
    from pyvmm.hosts.kvm.declared_types import DeclaredTypes

_KINDS = {kind.value: kind for kind in FdKind}
_SIZE_BITS = 14


class Answer(NamedTuple):
    """The kernel's non-negative answer, and the argument as it left it; None: there was none."""

    result: int
    argument: Structure | None


def size_in(number: int) -> int:
    """Size in bytes of the argument that a request number tells of (bits 29..16)."""
    return number >> 16 & (1 << _SIZE_BITS) - 1


def direction_in(number: int) -> Direction:
    """Direction that a request number tells of (bits 31..30)."""
    return Direction(number >> 30 & 3)


class Ioctl:
    """An ioctl; `argument` is the C type that it takes a pointer to, "" for none or a plain value.

    It is called with the object to issue it on: a system, VM, vCPU or guest_memfd of KVM, or any
    other owner of a descriptor.

    How much the kernel writes is not told by a request number without a size, nor for an argument
    that ends with an array without a length: what it would write beyond is EFAULT, and not written.
    """

    __slots__ = ("_is_open", "_kinds", "_pointer", "_types", "argument", "name", "number")

    def __init__(self, name: str, number: int, argument: str, types: DeclaredTypes) -> None:
        self.name = name
        self.number = number
        self.argument = argument
        self._types = types
        self._pointer = types.pointer_to(argument) if argument else None
        self._is_open = bool(argument) and (not size_in(number) or types.is_open(argument))
        self._kinds: dict[str, IoctlSpec] = {}

    @property
    def direction(self) -> Direction:
        """Direction of the argument."""
        return direction_in(self.number)

    def fields(self) -> tuple[str, ...]:
        """Names of the argument's fields; none for a plain value."""
        return tuple(one.name for one in self._types.fields_of(self.argument) if self.argument)

    def __call__(
        self, on: object, argument: Structure | int | None = None, /, **fields: object
    ) -> Answer:
        """Issue it on `on`: with an argument made before, or one made of `fields`.

        Without either a pointer argument is zeroed; one that takes a plain value takes an int.
        An argument made before can be looked at after an error, too. Raises `KvmError` as built-in
        ioctls do, `HostLacksError` for an object of the model, `UsageError` for a wrong argument.
        """
        spec = self._kinds.get(getattr(on, "WHAT", ""))
        if spec is None:
            spec = self._spec(on)
        if self._pointer is None:
            return Answer(self._issue(spec, on, self._value(argument, fields), None), None)
        if argument is None:
            argument = Structure(self._types, self._types.ffi.new(self._pointer))
            for name, value in fields.items():
                put(argument, name, value)
        elif fields or not isinstance(argument, Structure):
            raise self._wrong("either an object of that type or its fields")
        data = argument._data
        if self._types.ffi.typeof(data) is not self._pointer:
            data = self._of_type(argument)
        return Answer(self._issue(spec, on, data, argument), argument)

    def _issue(self, spec: IoctlSpec, on: object, given: object, argument: Structure | None) -> int:
        try:
            if self._is_open and argument is not None:
                return self._issue_guarded(spec, on, given, argument)
            return call(spec, on, given)  # type: ignore[arg-type]
        except KvmError as error:
            raise self._told(spec, error, given, argument) from None

    def _issue_guarded(
        self, spec: IoctlSpec, on: object, given: object, argument: Structure
    ) -> int:
        """Issue it on a copy behind which nothing of ours lies, and copy that back."""
        size = extent_of(argument)
        if size is None:
            return call(spec, on, given)  # type: ignore[arg-type]
        from pyvmm.hosts.kvm.guarded_memory import guarded

        ffi = self._types.ffi
        content = ffi.buffer(ffi.cast("char *", given), size)
        with guarded(ffi, self._pointer, content) as copy:
            try:
                return call(spec, on, copy)  # type: ignore[arg-type]
            finally:
                content[:] = ffi.buffer(ffi.cast("char *", copy), size)

    def _spec(self, on: object) -> IoctlSpec:
        what = str(getattr(on, "WHAT", ""))
        # Objects of the model that are watched have numbers, too: none is one of this process.
        if not isinstance(getattr(on, "fd", None), int) or not hasattr(on, "recorder"):
            raise HostLacksError(
                f"issue {self.name} on {type(on).__name__}",
                "it is no system, VM, vCPU or guest_memfd of KVM; the model, too, has no ioctls",
                "give it one of KVM's, here or in the lab",
            )
        kind = _KINDS.get(what, FdKind.DEVICE)
        # A pointer goes by value only where the kernel's own number says nothing of it.
        direction = (self.direction or Direction.WRITE) if self.argument else Direction.NONE
        takes = self.argument or "value"
        spec = IoctlSpec(self.name, self.number, direction, takes, kind, "(declared at run time)")
        if what:
            self._kinds[what] = spec
        return spec

    def _value(self, argument: object, fields: dict[str, object]) -> int:
        if argument is None:
            argument = 0
        if fields or not isinstance(argument, int):
            raise self._wrong("no structure: a plain number, or nothing")
        return argument & (1 << 64) - 1

    def _of_type(self, argument: Structure) -> object:
        """The data of an object whose type is spelled otherwise, or that is part of another."""
        if len(bytes(argument)) < self._types.size_of(self.argument):
            raise self._wrong(f"{self.argument}, not {type_of(argument)}")
        return self._types.ffi.cast(self._pointer, address_of(argument))

    def _wrong(self, takes: str) -> UsageError:
        return UsageError(f"issue {self.name}", f"it takes {takes}", f"its argument: {self}")

    def _told(
        self, spec: IoctlSpec, error: KvmError, given: object, argument: Structure | None
    ) -> KvmError:
        said = str(given) if argument is None else spell(argument)
        remedy = None
        if error.errno == errno.ENOTTY:
            remedy = f"this kernel knows no ioctl {self.number:#x} of a {spec.kind.value}"
        elif error.errno == errno.EINVAL and spec.kind in {FdKind.SYSTEM, FdKind.VCPU}:
            remedy = f"a {spec.kind.value} answers so to an ioctl that it does not know, too"
        elif error.errno == errno.EFAULT and self._is_open:
            remedy = f"the kernel may mean more than the {self._types.size_of(self.argument)} bytes"
            if self._types.is_open(self.argument):
                remedy = "give its array as many elements as it is to have: new(..., elements=N)"
        return KvmError(error.ioctl, error.target, said, error.errno, remedy=remedy)

    def __repr__(self) -> str:
        takes = f" {self.argument}" if self.argument else ""
        return f"<ioctl {self.name} {self.number:#010x}{takes}>"
