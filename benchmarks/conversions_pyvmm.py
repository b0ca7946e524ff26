# SPDX-License-Identifier: MIT
"""pyvmm's side of the conversion benchmark: `GuestMemory` over the host API, in one thread.

What conversions.c does, pyvmm does with what its machines use: the page states, the planner and the
executor of `GuestMemory`, and the host's fast path (`FastConversions`).
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.conversion_cells import CODE_SIZE, DATA_GPA, MARK, Cell, Kind
from benchmarks.measure import CannotRunError
from pyvmm.boot.tables import protected_mode
from pyvmm.hosts.capabilities import GuestMemfdFlag, VmType
from pyvmm.hosts.exits import Hypercall, Interrupted, IoOut, MemoryFault
from pyvmm.hosts.interface import Memslot, ServedSpan, System, Vcpu, Vm
from pyvmm.hosts.kvm.system import System as KvmSystem
from pyvmm.hosts.registers import Regs
from pyvmm.machine.guest_memory import GuestMemory
from pyvmm.machine.memory_sides import MemorySides, SharedMemory
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.regions import MemoryRegion
from pyvmm.rules.abi import PAGE_SIZE

_MAP_GPA_RANGE = 12
_BETWEEN_QUESTIONS = 0.0005


@dataclass(slots=True)
class Guest:
    """A guest of conversions_guest.S, ready to run; `fast`: vCPUs may convert by themselves."""

    cell: Cell
    vcpu: Vcpu
    memory: GuestMemory
    to_python: int = 0
    """Conversions that Python made."""

    def stretch(self) -> float:
        """Run to the next mark; how many seconds it took. Raises `CannotRunError`."""
        started = time.perf_counter()
        while True:
            reason = self.vcpu.run()
            match reason:
                case IoOut(port=port) if port == MARK:
                    return time.perf_counter() - started
                case Hypercall():
                    self.to_python += 1
                    self.vcpu.answer_hypercall(self.memory.exits.answer_hypercall(reason.args))
                case MemoryFault():
                    self.to_python += 1
                    self._resolve(reason)
                case Interrupted():
                    pass
                case _:
                    raise CannotRunError(f"the guest stopped for {reason}")

    def _resolve(self, fault: MemoryFault) -> None:
        size = self.cell.size
        if self.cell.kind is Kind.TO_SHARED and size > PAGE_SIZE:
            self.memory.conversion.convert(fault.gpa & -size, size, Side.SHARED)
        else:
            refused = self.memory.exits.resolve_fault(fault, 0, lambda _conversion: True)
            if refused is not None:
                raise CannotRunError("\n".join(refused.lines()))

    def withhold(self) -> None:
        """Take the data out of the guest's reach, and give their memory back."""
        if self.cell.kind is Kind.TO_PRIVATE:
            for slot in range(1, self.cell.count + 1):
                self.memory.regions.unplug(slot)
        else:
            self.memory.conversion.withhold(DATA_GPA, self.cell.data_size)


class _Deaf:
    """A device that does nothing about what it is told."""

    def leaving(self, range_: GpaRange) -> None:
        pass

    def joined(self, range_: GpaRange) -> None:
        pass


@contextmanager
def guest(
    code: bytes,
    cell: Cell,
    *,
    fast: bool,
    held: bool = False,
    in_place: bool = False,
    host: Callable[[], System] = KvmSystem,
) -> Iterator[Guest]:
    """A guest of a private VM of its own, on `host`; all closed at the end.

    `held`: a device listens to conversions of the guest's code, and another leases a part of it.
    `in_place`: one guest_memfd is both sides of the data.
    """
    with ExitStack() as stack:
        system = stack.enter_context(host())
        vm = stack.enter_context(system.create_vm(VmType.SW_PROTECTED))
        vm.enable_hypercall_exits(1 << _MAP_GPA_RANGE)
        memory = GuestMemory(vm, honours_touches=fast, in_place=in_place)
        program = MemoryRegion(0, GpaRange(0, CODE_SIZE), can_be_private=False, what="code")
        shared = stack.enter_context(SharedMemory(system, vm, program))
        memory.regions.add(shared.sides)
        memory.write(0, code)
        if in_place:
            _add_data_in_place(stack, vm, memory, cell)
        else:
            _add_data(stack, system, vm, memory, cell)
        if held:
            code_range = GpaRange(0, CODE_SIZE)
            memory.regions.listen(_Deaf(), [code_range])
            pages = [(gpa, PAGE_SIZE) for gpa in range(PAGE_SIZE, 9 * PAGE_SIZE, PAGE_SIZE)]
            stack.enter_context(memory.lease(pages, writable=True))
        if not fast:
            vm.conversions.serve([])
        elif cell.kind is Kind.TO_SHARED:
            # Blocks as large as the ranges that are measured; a machine's own are pages.
            vm.conversions.serve([ServedSpan(DATA_GPA, cell.data_size, 0, touch_block=cell.size)])
        vcpu = stack.enter_context(vm.create_vcpu(0))
        vcpu.use_host_cpuid()
        vcpu.set_sregs(replace(protected_mode(), apic_base=vcpu.get_sregs().apic_base))
        vcpu.set_regs(
            Regs(
                rip=cell.kind.entry,
                rcx=cell.size // PAGE_SIZE,
                rdi=DATA_GPA,
                rbp=DATA_GPA + cell.data_size,
                rsp=cell.touch,
            )
        )
        yield Guest(cell, vcpu, memory)


def _add_data(stack: ExitStack, system: System, vm: Vm, memory: GuestMemory, cell: Cell) -> None:
    size = cell.data_size
    if cell.kind is Kind.TO_SHARED:
        region = MemoryRegion(
            1, GpaRange(DATA_GPA, DATA_GPA + size), can_be_private=False, what="data"
        )
        memory.regions.add(stack.enter_context(SharedMemory(system, vm, region)).sides)
        return
    mapping = stack.enter_context(system.map_anonymous(size))
    view = mapping.view()
    stack.callback(view.release)
    private = stack.enter_context(vm.create_guest_memfd(size))
    part = cell.size if cell.kind is Kind.TO_PRIVATE else size
    for slot, offset in enumerate(range(0, size, part), start=1):
        gpa = DATA_GPA + offset
        region = MemoryRegion(slot, GpaRange(gpa, gpa + part), can_be_private=True, what="data")
        memslot = Memslot(
            slot, gpa, part, mapping.hva + offset, guest_memfd=private, guest_memfd_offset=offset
        )
        vm.set_memslot(memslot)
        memory.regions.add(MemorySides(region, memslot, mapping, view, offset))


def _add_data_in_place(stack: ExitStack, vm: Vm, memory: GuestMemory, cell: Cell) -> None:
    size = cell.data_size
    flags = GuestMemfdFlag.MMAP | GuestMemfdFlag.INIT_SHARED
    file = stack.enter_context(vm.create_guest_memfd(size, flags))
    mapping = stack.enter_context(file.map())
    view = mapping.view()
    stack.callback(view.release)
    range_ = GpaRange(DATA_GPA, DATA_GPA + size)
    region = MemoryRegion(1, range_, can_be_private=True, what="data", in_place=True)
    memslot = Memslot(1, DATA_GPA, size, mapping.hva, guest_memfd=file)
    vm.set_memslot(memslot)
    memory.regions.add(MemorySides(region, memslot, mapping, view, 0))


def measured(
    code: bytes,
    cell: Cell,
    *,
    fast: bool,
    held: bool = False,
    in_place: bool = False,
    host: Callable[[], System] = KvmSystem,
) -> dict[str, float]:
    """One measurement: seconds by direction, and how many conversions Python made."""
    to_private = to_shared = 0.0
    with guest(code, cell, fast=fast, held=held, in_place=in_place, host=host) as one:
        one.stretch()
        for _ in range(cell.sweeps):
            if cell.kind is Kind.SWEEPS:
                to_private += one.stretch()
                one.stretch()
                to_shared += one.stretch()
                one.stretch()
                continue
            if cell.kind.by_touch:
                one.withhold()
            seconds = one.stretch()
            if cell.kind is Kind.TO_SHARED:
                to_shared += seconds
            else:
                to_private += seconds
        return {"to_private": to_private, "to_shared": to_shared, "to_python": one.to_python}


def longest_wait(code: bytes, cell: Cell, *, host: Callable[[], System] = KvmSystem) -> float:
    """Seconds that a thread which asks for a page's state waited at the most for its answer.

    It asks again and again while the guest converts. The wait of a thread for a processor is in it.
    """
    longest = 0.0
    is_over = threading.Event()

    def ask(memory: GuestMemory) -> None:
        nonlocal longest
        while not is_over.is_set():
            started = time.perf_counter()
            memory.states.at(DATA_GPA)
            longest = max(longest, time.perf_counter() - started)
            time.sleep(_BETWEEN_QUESTIONS)

    with guest(code, cell, fast=True, host=host) as one:
        one.stretch()
        onlooker = threading.Thread(target=ask, args=(one.memory,))
        onlooker.start()
        try:
            for _ in range(4 * cell.sweeps):
                one.stretch()
        finally:
            is_over.set()
            onlooker.join()
    return longest


def main() -> None:
    """``python -m benchmarks.conversions_pyvmm GUEST KIND SIZE COUNT SWEEPS TOUCH [slow]``.

    Nothing but the conversions, for strace and profilers; arguments as those of conversions.c.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conversions_pyvmm")
    parser.add_argument("guest", type=Path)
    parser.add_argument("kind", type=Kind)
    for name in ("size", "count", "sweeps", "touch"):
        parser.add_argument(name, type=int)
    parser.add_argument("how", nargs="?", choices=("fast", "slow"), default="fast")
    options = parser.parse_args()
    cell = Cell(options.kind, options.size, options.count, options.sweeps, options.touch)
    print(measured(options.guest.read_bytes(), cell, fast=options.how == "fast"))


if __name__ == "__main__":
    main()
