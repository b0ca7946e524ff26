# SPDX-License-Identifier: MIT
"""A host with one VM, its RAM and one vCPU: for the shell, short programs and notebooks."""

from __future__ import annotations

import enum
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from pyvmm.errors import UsageError
from pyvmm.hosts.capabilities import VmType
from pyvmm.hosts.interface import GuestMapping, GuestMemfd, Memslot, System, Vcpu, Vm
from pyvmm.hosts.owner import Owner
from pyvmm.machine.config import HostChoice
from pyvmm.machine.hosts import open_host
from pyvmm.memory.backing import (
    BackingChoice,
    PrivateBacking,
    RamBacking,
    choose_backing,
    choose_private_backing,
)
from pyvmm.memory.layout import MIB
from pyvmm.rules.abi import PAGE_SIZE
from pyvmm.shell.memory import MemoryAtHand
from pyvmm.shell.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Iterator

E = TypeVar("E", bound=enum.Enum)

DEFAULT_SIZE = 2 * MIB
"""Of a bench's RAM, in bytes."""
FIRST_SLOT = 0
"""The memslot of a bench's RAM."""


class Parts(NamedTuple):
    """Objects on a bench, which it closes at its end."""

    system: System
    vm: Vm
    memory: MemoryAtHand
    vcpu: Vcpu


class Bench(Owner):
    """Objects at hand: `system`, `vm`, `memory`, `vcpu`; it can be unpacked into these four.

    `vm` has RAM from GPA 0 on, in memslot 0; `vcpu` is 0, in 16-bit real mode at address 0, and
    belongs to the thread that made the bench. `host` is KVM or MODEL, `why` it is not KVM ("" where
    it is, or where the model was asked for). Closing it closes all of them.
    """

    def __init__(
        self, parts: Parts, watch: Watch, host: HostChoice, why: str, owned: ExitStack
    ) -> None:
        """`owned` is closed with it."""
        self.system, self.vm, self.memory, self.vcpu = parts
        self.watch = watch
        self.host = host
        self.why = why
        self._owned = owned

    def __iter__(self) -> Iterator[System | Vm | MemoryAtHand | Vcpu]:
        return iter((self.system, self.vm, self.memory, self.vcpu))

    def close(self) -> None:
        """Close the vCPU, the memory, the VM and the host; a second call does nothing."""
        self._owned.close()


def open_bench(
    host: HostChoice | str = HostChoice.AUTO,
    *,
    size: int = DEFAULT_SIZE,
    private: PrivateBacking | str | None = None,
    watched: bool = False,
) -> Bench:
    """Make a bench on `host` ("auto", "kvm", "model"), with `size` bytes of RAM, whole pages.

    `private` ("auto", "two-sided", "in-place"): a VM whose pages can be private; they begin as
    shared ones. `watched`: the bench's `Watch` is told of every call, so that it knows the memory
    of all VMs of its `system`. Raises `UsageError`, `HostLacksError` where there is no such host or
    no private memory, `NoPermissionError`, `SystemCallError`.
    """
    choice = _one_of(HostChoice, host, "a host")
    wish = None if private is None else _one_of(PrivateBacking, private, "private memory")
    if size <= 0 or size % PAGE_SIZE:
        raise UsageError(
            f"make RAM of {size} bytes", f"no positive multiple of a page, {PAGE_SIZE} bytes"
        )
    watch = Watch()
    with ExitStack() as stack:
        opened = open_host(choice, private=wish, recorder=watch if watched else None)
        system = stack.enter_context(opened.system)
        has = system.capabilities()
        watch.in_place = bool(has.file_attributes)
        vm_type = VmType.DEFAULT if wish is None else VmType.SW_PROTECTED
        vm = stack.enter_context(system.create_vm(vm_type))
        backing = choose_backing(has) if wish is None else choose_private_backing(has, wish)
        mapping, file = _backed(system, vm, size, backing, stack)
        slot = Memslot(FIRST_SLOT, 0, size, mapping.hva, guest_memfd=file)
        vm.set_memslot(slot)
        vcpu = stack.enter_context(vm.create_vcpu(0))
        memory = MemoryAtHand(vm, mapping, slot, in_place=backing.kind is RamBacking.IN_PLACE)
        why = "" if opened.without_kvm is None else str(opened.without_kvm)
        parts = Parts(system, vm, memory, vcpu)
        return Bench(parts, watch, opened.choice, why, stack.pop_all())
    raise AssertionError  # The stack swallows nothing.


def _one_of(kind: type[E], value: E | str, what: str) -> E:
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(str(one.value) for one in kind)
        raise UsageError(f"make {what} of the kind {value!r}", "there is none", known) from None


def _backed(
    system: System, vm: Vm, size: int, backing: BackingChoice, stack: ExitStack
) -> tuple[GuestMapping, GuestMemfd | None]:
    """The mapping of what is shared, and the guest_memfd where there is one."""
    if backing.kind is RamBacking.MEMFD:
        return stack.enter_context(system.map_anonymous(size)), None
    file = stack.enter_context(vm.create_guest_memfd(size, backing.flags))
    if backing.kind is RamBacking.TWO_SIDED:
        return stack.enter_context(system.map_anonymous(size)), file
    return stack.enter_context(file.map()), file
