# SPDX-License-Identifier: MIT
"""Exits that are not known here, as the kernel's bytes: for callbacks that know them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from pyvmm.hosts.exits import Exit, MemoryFault, MemoryFaultFlag, UnknownExit

DATA_OFFSET = 32
"""Offset of an exit's own data in ``struct kvm_run`` (api.rst 5): a union."""
DATA_SIZE = 256
"""Its padded size in bytes."""


class RawVcpu(Protocol):
    """A vCPU whose shared structure with the kernel can be read and written; on its thread."""

    def read_run(self) -> bytes:
        """All that is mapped of the vCPU's fd as the last exit left it, ``struct kvm_run`` first.

        Raises `HostLacksError` where there is no such structure.
        """
        ...

    def write_run(self, offset: int, data: bytes) -> None:
        """Put `data` at `offset` of that, in bytes. Raises `UsageError` outside of it."""
        ...


@dataclass(frozen=True, slots=True)
class RawExit:
    """An exit for a reason that is not known here, or a memory fault with flags that are not.

    `vcpu` is the index; `run` has the bytes of ``struct kvm_run`` and of what is mapped behind it,
    as they were at the exit; `write_run(offset, data)` changes them for the next entry, as
    `RawVcpu.write_run`.
    """

    exit: Exit
    vcpu: int
    run: bytes = field(repr=False)
    write_run: Callable[[int, bytes], None] = field(repr=False, compare=False)

    @property
    def reason(self) -> int:
        """``kvm_run.exit_reason``."""
        return int.from_bytes(self.run[8:12], "little")

    @property
    def data(self) -> bytes:
        """The exit's own data: what a declared structure of it is a view of."""
        return self.run[DATA_OFFSET : DATA_OFFSET + DATA_SIZE]

    def answer(self, data: bytes, offset: int = 0) -> None:
        """Put `data` at `offset` of the exit's own data, where the kernel finds it next."""
        self.write_run(DATA_OFFSET + offset, data)

    @classmethod
    def of(cls, exit_: Exit, vcpu: RawVcpu, index: int) -> RawExit:
        """The exit that `vcpu`, number `index`, has just made."""
        return cls(exit_, index, vcpu.read_run(), vcpu.write_run)


OnUnknown: TypeAlias = "Callable[[RawExit], bool]"
"""Callback that deals with an exit that is not known here; False: it does not know it either."""


def is_unknown(exit_: object) -> bool:
    """Tell whether an exit's reason, or a flag of a memory fault, is not known here."""
    if isinstance(exit_, MemoryFault):
        return bool(int(exit_.flags) & ~int(MemoryFaultFlag.PRIVATE))
    return isinstance(exit_, UnknownExit)
