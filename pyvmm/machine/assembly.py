"""Putting a machine together: VM, RAM, loaded image, devices, vCPUs. Synchronous, no trio.

The order matters: interrupt controllers come before the first vCPU, RAM before the image, and
everything before the first entry.
"""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Self

from pyvmm.boot.loader import plan_boot
from pyvmm.boot.plan import BootPlan, BootProtocol, GuestNeed
from pyvmm.errors import UsageError
from pyvmm.hosts.interface import System, Vcpu
from pyvmm.machine.board import Board
from pyvmm.machine.config import IrqchipPolicy, MachineConfig
from pyvmm.machine.console.port import ConsolePort
from pyvmm.machine.control import RunControl
from pyvmm.machine.hosts import open_host
from pyvmm.machine.ram import GuestRam
from pyvmm.memory.layout import MemoryLayout


def needs_interrupts(config: MachineConfig, plan: BootPlan) -> bool:
    """Whether the machine gets interrupt controllers and a timer (`IrqchipPolicy`).

    Raises `UsageError` for several vCPUs without: nothing could start the second one.
    """
    if config.irqchip is IrqchipPolicy.OFF and config.cpus > 1:
        raise UsageError(
            f"make a machine with {config.cpus} vCPUs and no interrupt controllers",
            "nothing could start the second vCPU",
            "leave --irqchip out",
        )
    if config.irqchip is not IrqchipPolicy.AUTO:
        return config.irqchip is IrqchipPolicy.ON
    if config.cpus > 1:
        return True
    if plan.needs is None:
        return plan.protocol is not BootProtocol.FLAT
    return bool(plan.needs & GuestNeed.INTERRUPTS)


class Assembly:
    """Owns a VM that is ready to run, and what belongs to it. Close it after its vCPUs."""

    def __init__(self, config: MachineConfig, control: RunControl, console: ConsolePort) -> None:
        layout = MemoryLayout.of(config.memory)
        self._plan = plan_boot(
            config.image, layout, config.command_line, config.initrd, name=config.name
        )
        interrupts = needs_interrupts(config, self._plan)
        with ExitStack() as stack:
            self.system: System = stack.enter_context(open_host(config.host))
            self.vm = stack.enter_context(self.system.create_vm())
            if interrupts:
                self.vm.create_irqchip()
                self.vm.create_pit()
            self.ram = stack.enter_context(GuestRam(self.system, self.vm, layout))
            for placement in self._plan.placements:
                self.ram.write(placement.gpa, placement.data)
            self.board = Board(
                console=console,
                memory=config.memory,
                end=control.end,
                set_irq_line=self.vm.set_irq_line if interrupts else None,
            )
            self.board.attach_fast_path(self.vm.posted)
            self._stack = stack.pop_all()

    def create_vcpu(self, index: int) -> Vcpu:
        """Make a vCPU on the calling thread. The first is at the image's entry; others wait."""
        vcpu = self.vm.create_vcpu(index)
        try:
            vcpu.use_host_cpuid()
            if index == 0:
                vcpu.set_entry(self._plan.entry.regs, self._plan.entry.sregs)
        except BaseException:
            vcpu.close()
            raise
        return vcpu

    def close(self) -> None:
        """Give everything back."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
