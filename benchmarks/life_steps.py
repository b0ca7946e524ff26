# SPDX-License-Identifier: MIT
"""Where the time of a machine's life goes: the same steps one by one, with a clock in between."""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from dataclasses import replace

import trio

from benchmarks import guests
from benchmarks.measure import CannotRunError, Table
from pyvmm.boot.loader import plan_boot
from pyvmm.hosts.exits import IoOut
from pyvmm.machine.board import Board
from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.machine.console.port import ConsolePort
from pyvmm.machine.hosts import open_host
from pyvmm.machine.pc_platform import pc_platform
from pyvmm.machine.ram import GuestRam
from pyvmm.machine.wiring import Wiring
from pyvmm.memory.address_map import AddressMap


class _Clock:
    """Collects, by step, how long each took."""

    def __init__(self) -> None:
        self.steps: dict[str, list[float]] = {}
        self._last = time.perf_counter()

    def start(self) -> None:
        self._last = time.perf_counter()

    def done(self, step: str) -> None:
        now = time.perf_counter()
        self.steps.setdefault(step, []).append(now - self._last)
        self._last = time.perf_counter()


def table(lives: int, machine_ms: float) -> Table:
    """Medians over `lives`; `machine_ms` is what a whole machine took."""
    clock = _Clock()
    trio.run(_lives, clock, lives + 1)
    rows = []
    total = 0.0
    for step, seconds in clock.steps.items():
        middle = statistics.median(seconds[1:]) * 1e3
        total += middle
        rows.append((step, f"{middle * 1e3:.0f} us", ""))
    rest = machine_ms - total
    rows.append(("all of these", f"{total * 1e3:.0f} us", ""))
    rows.append(("a machine has besides", f"{rest * 1e3:.0f} us", "thread, trio, console, result"))
    return Table(f"steps of a machine's life, in one thread, medians of {lives}", tuple(rows))


async def _lives(clock: _Clock, lives: int) -> None:
    # In trio's run, because a console belongs to one.
    for _ in range(lives):
        _live(clock)


def _live(clock: _Clock) -> None:
    """What `Assembly`, `VcpuThread` and their ends do, in their order."""
    clock.start()
    config = MachineConfig(guests.EXIT_42, memory=guests.MEMORY)
    layout = AddressMap.of(config.memory)
    plan = plan_boot(config.image, layout, config.command_line, config.initrd, name=config.name)
    clock.done("configuration, boot plan")
    with ExitStack() as stack:
        system = stack.enter_context(open_host(HostChoice.AUTO).system)
        clock.done("open /dev/kvm")
        system.capabilities()
        clock.done("capabilities, host's CPUID")
        vm = stack.enter_context(system.create_vm())
        clock.done("create VM and posted ring")
        ram = stack.enter_context(GuestRam(system, vm, layout))
        clock.done("RAM: size check, file, mapping, slot")
        for placement in plan.placements:
            ram.write(placement.gpa, placement.data)
        clock.done("image into RAM")
        board = Board(
            pc_platform(
                Wiring(config.memory, ConsolePort(), end=lambda _: None, reset=lambda: None)
            )
        )
        board.attach_fast_path(vm.posted)
        clock.done("devices")
        vcpu = stack.enter_context(vm.create_vcpu(0))
        clock.done("create vCPU")
        vcpu.use_host_cpuid()
        clock.done("set CPUID")
        apic_base = vcpu.get_sregs().apic_base
        vcpu.set_sregs(replace(plan.entry.sregs, apic_base=apic_base))
        vcpu.set_regs(plan.entry.regs)
        clock.done("registers")
        reason = vcpu.run()
        clock.done("run to the exit")
        if not isinstance(reason, IoOut):
            raise CannotRunError(f"the guest stopped for {reason}")
        board.port_out(reason.port, reason.size, reason.count, reason.data)
        dict(vcpu.exit_counts())
        clock.done("exit to the device, counts")
        vcpu.close()
        clock.done("close vCPU")
        ram.close()
        clock.done("close RAM")
        vm.close()
        clock.done("close VM")
        system.close()
        clock.done("close /dev/kvm")
