# SPDX-License-Identifier: MIT
"""Putting a machine together: VM, RAM, loaded image, devices, vCPUs. Synchronous, no trio.

The order matters: interrupt controllers come before the first vCPU, RAM before the image, and
everything before the first entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from pyvmm import bundled_guests
from pyvmm.boot.loader import plan_boot
from pyvmm.boot.plan import BootPlan, BootProtocol, GuestNeed
from pyvmm.devices.fw_cfg import Item
from pyvmm.errors import UsageError
from pyvmm.hosts.capabilities import VmType
from pyvmm.hosts.interface import System, Vcpu, Vm
from pyvmm.machine.board import Board
from pyvmm.machine.config import ImplicitPolicy, IrqchipPolicy, MachineConfig
from pyvmm.machine.console.port import ConsolePort
from pyvmm.machine.control import RunControl
from pyvmm.machine.device_interrupts import DeviceInterrupts
from pyvmm.machine.dma import GuestDma
from pyvmm.machine.guest_memory import GuestMemory
from pyvmm.machine.hosts import open_host
from pyvmm.machine.ownership import StackOwner
from pyvmm.machine.pc_platform import pc_platform
from pyvmm.machine.ram import GuestRam
from pyvmm.machine.raw_flags import NO_RAW_FLAGS
from pyvmm.machine.wiring import Wiring
from pyvmm.memory.address_map import AddressMap
from pyvmm.memory.layout import ACPI_GPA
from pyvmm.rules.abi import KVM_HC_MAP_GPA_RANGE

if TYPE_CHECKING:
    from pyvmm.devices.placement import Platform
    from pyvmm.hosts.call_record import Recorder
    from pyvmm.machine.acpi_machine import PowerButton
    from pyvmm.machine.cpu_identity import CpuIdentity
    from pyvmm.machine.device_choice import DeviceChoice
    from pyvmm.machine.disks.failures import MachineDisks
    from pyvmm.machine.hardware import NumaNode
    from pyvmm.machine.launch import PrivateLaunch
    from pyvmm.machine.network.cards import MachineCards
    from pyvmm.machine.pci.bus import PciBus
    from pyvmm.net.frames import Wire

_DISABLE_HLT = 2
"""KVM_X86_DISABLE_EXITS_HLT (api.rst 7.13)."""


def needs_interrupts(config: MachineConfig, plan: BootPlan) -> bool:
    """Tell whether the machine gets interrupt controllers and a timer (`IrqchipPolicy`).

    Raises `UsageError` for several vCPUs without: nothing could start the second one, unless the
    firmware does, which starts all of them.
    """
    started_by_firmware = config.private is not None
    if config.irqchip is IrqchipPolicy.OFF and config.cpus > 1 and not started_by_firmware:
        raise UsageError(
            f"make a machine with {config.cpus} vCPUs and no interrupt controllers",
            "nothing could start the second vCPU",
            "leave --irqchip out",
        )
    if config.irqchip is not IrqchipPolicy.AUTO:
        return config.irqchip is IrqchipPolicy.ON
    if config.cpus > 1 and not started_by_firmware:
        return True
    if plan.needs is None:
        return plan.protocol is not BootProtocol.FLAT
    return bool(plan.needs & GuestNeed.INTERRUPTS)


def needs_acpi(config: MachineConfig, plan: BootPlan, *, has_controllers: bool) -> bool | None:
    """Tell whether the machine has ACPI tables; None: if the host's processors can agree with them.

    Unless it was said, images have them that are not made for this machine, which say what they
    need. Raises `UsageError` where it was said, and cannot be.
    """
    wish = None if config.hardware is None else config.hardware.wants_acpi
    if wish and (config.private is not None or not has_controllers):
        private = config.private is not None
        has_nodes = config.hardware is not None and bool(config.hardware.nodes)
        raise UsageError(
            "give a machine ACPI tables",
            "its memory is private, and the host cannot write there after the launch"
            if private
            else "it has no interrupt controllers",
            "leave --acpi on or --private out"
            if private
            else f"give --irqchip on, or {'no --numa' if has_nodes else '--acpi off'}",
        )
    if wish is not None:
        return wish
    if config.private is not None or not has_controllers or plan.needs is not None:
        return False
    return None


def plan_of(config: MachineConfig, address_map: AddressMap) -> BootPlan:
    """Plan where the parts of a machine's image go. Raises `ImageError`.

    The image is told of ACPI tables where they were asked for. Else it looks for them itself: that
    there are any is known after the plan.
    """
    hardware = config.hardware
    return plan_boot(
        config.image,
        address_map,
        config.command_line,
        config.initrd,
        name=config.name,
        initrd_name=config.initrd_name,
        wish=config.wish,
        rsdp=ACPI_GPA if hardware is not None and hardware.wants_acpi else 0,
        bios=bundled_guests.bios,
    )


PreparedLaunch = Callable[[System, Vm, GuestMemory, MachineConfig], "PrivateLaunch"]


def _prepare_launch(plan: BootPlan, address_map: AddressMap) -> PreparedLaunch:
    """Return the function that makes the launch once there is a VM; refuse a wrong image now."""
    from pyvmm.boot.launch import launch_image  # Most machines have no private memory.
    from pyvmm.machine.launch import PrivateLaunch

    return partial(PrivateLaunch, launch_image(plan, address_map))


class Assembly(StackOwner):
    """Owns a VM that is ready to run, and what belongs to it. Close it after its vCPUs."""

    def __init__(
        self,
        config: MachineConfig,
        control: RunControl,
        console: ConsolePort,
        recorder: Recorder | None = None,
        wires: Sequence[Wire] = (),
    ) -> None:
        """`recorder` is told of what is asked of the host, from its opening on. `wires` are those
        of the cards of `config`, which stay their owner's.
        """
        address_map = config.address_map()
        self._config = config
        self._plan = plan_of(config, address_map)
        prepared = None if config.private is None else _prepare_launch(self._plan, address_map)
        self._interrupts = needs_interrupts(config, self._plan)
        wants_acpi = needs_acpi(config, self._plan, has_controllers=self._interrupts)
        self._cpu: CpuIdentity | None = None
        self._tables = b""
        self.power_button: PowerButton | None = None
        self.launch: PrivateLaunch | None = None
        self.disks: MachineDisks | None = None
        self.cards: MachineCards | None = None
        with ExitStack() as stack:
            self.host = open_host(
                config.host,
                private=None if config.private is None else config.private.backing,
                recorder=recorder,
            )
            self.system: System = stack.enter_context(self.host.system)
            has_acpi = wants_acpi is True or (wants_acpi is None and self._tells_cpuid)
            self.address_map = config.address_map(controllers=self._interrupts, acpi=has_acpi)
            self._cpu = self._identity(has_acpi=has_acpi)
            # Closed behind the VM, which undoes them quicker than they are undone one by one.
            behind = stack.enter_context(ExitStack())
            self.vm = stack.enter_context(self._create_vm())
            if self._interrupts:
                self.vm.create_irqchip()
                self.vm.create_pit()
            self.interrupts = behind.enter_context(
                DeviceInterrupts(self.vm, has_controllers=self._interrupts)
            )
            self._add_memory(control, stack, recorder)
            if prepared is not None:
                self.launch = stack.enter_context(
                    prepared(self.system, self.vm, self.memory, config)
                )
            devices = self._devices(stack, wires)
            if has_acpi:
                devices = self._with_power(devices)
            self.pci = self._pci_bus()
            platform = pc_platform(self._wiring(control, console), devices)
            platform.require_room(self.address_map)
            if has_acpi:
                self._tables = self._tables_of(platform)
            if prepared is None:
                self._load()
            self.board = Board(platform)
            self.board.attach_fast_path(self.vm.posted)
            if self.pci is not None:
                self.pci.attach(self.board)
            self.own(stack)

    def _devices(self, stack: ExitStack, wires: Sequence[Wire]) -> DeviceChoice:
        """The devices that were chosen, and those of the hardware that was asked for."""
        config = self._config
        if config.hardware is None:
            return config.devices
        from pyvmm.machine.disks.failures import MachineDisks  # Most have none.
        from pyvmm.machine.hardware_devices import with_hardware

        self.disks = MachineDisks()
        if config.hardware.cards:
            from pyvmm.machine.network.cards import MachineCards

            self.cards = MachineCards()
        return with_hardware(
            config.devices,
            config.hardware,
            stack,
            self.disks,
            wires,
            cards=self.cards,
            against_vhost=self._against_vhost(),
        )

    def _add_memory(self, control: RunControl, stack: ExitStack, recorder: Recorder | None) -> None:
        private = self._config.private
        self.ram = stack.enter_context(
            GuestRam(
                self.system,
                self.vm,
                self.address_map,
                private=None if private is None else private.backing,
                in_core=self._config.dump_guest_core,
                nodes=self._nodes,
                raw_flags=self._config.raw_flags or NO_RAW_FLAGS,
                recorder=recorder,
            )
        )
        self.memory = GuestMemory(
            self.vm,
            honours_touches=private is not None and private.implicit is ImplicitPolicy.HONOUR,
            is_over=lambda: control.is_over,
            wanted=lambda: control.attention,
            in_place=self.ram.in_place,
        )
        control.release_too(self.memory.leases.interrupt)
        stack.callback(self.memory.close)
        for sides in self.ram.sides():
            self.memory.regions.add(sides)

    def _against_vhost(self) -> str:
        if self._config.private is not None:
            return "guest memory is private, and it knows of no page that is shared or is not"
        return "" if self.memory.leases.has_engines else "it is for guests on KVM"

    @property
    def _nodes(self) -> tuple[NumaNode, ...]:
        return () if self._config.hardware is None else self._config.hardware.nodes

    @property
    def _tells_cpuid(self) -> bool:
        """False on the model, whose processors cannot be told what CPUID answers."""
        return bool(self.system.guest_cpuid())

    def _identity(self, *, has_acpi: bool) -> CpuIdentity | None:
        """Identities of vCPUs that a guest compares with tables, or was promised; None: any."""
        topology = self._config.topology
        if not (has_acpi or topology) or not self._tells_cpuid:
            return None
        from pyvmm.hosts.topology import Topology  # Our own guests do not look.
        from pyvmm.machine.cpu_identity import CpuIdentity

        return CpuIdentity(self.system, topology or Topology(self._config.cpus))

    def _with_power(self, devices: DeviceChoice) -> DeviceChoice:
        from pyvmm.machine.acpi_machine import PowerButton

        self.power_button = PowerButton()
        return replace(devices, added=(*devices.added, self.power_button.place))

    def _tables_of(self, platform: Platform) -> bytes:
        from pyvmm.machine.acpi_machine import tables_of

        ids = tuple(map(self.apic_id, range(self._config.cpus)))
        root = None if self.pci is None else self.pci.root()
        return tables_of(platform, self.address_map, ids, root, self._nodes)

    def apic_id(self, cpu: int) -> int:
        """The APIC ID of vCPU number `cpu`, which is also its number to the host."""
        return cpu if self._cpu is None else self._cpu.apic_id(cpu)

    def _pci_bus(self) -> PciBus | None:
        if not self._config.has_pci:
            return None
        from pyvmm.machine.pci.bus import PciBus

        return PciBus(self.address_map)

    @property
    def has_interrupts(self) -> bool:
        """True if there are interrupt controllers and a timer."""
        return self._interrupts

    @property
    def remarks(self) -> tuple[str, ...]:
        """Remarks on what is not as the image asks for (`BootPlan`)."""
        return self._plan.remarks

    def _wiring(self, control: RunControl, console: ConsolePort) -> Wiring:
        """Make the callbacks by which the devices reach this machine."""
        return Wiring(
            memory=self._config.memory,
            console=console,
            end=control.end,
            reset=control.guest_reset,
            interrupts=self.interrupts,
            fw_cfg=self._fw_cfg_items,
            dma=GuestDma(self.memory, "fw_cfg"),
            launched=None if self.launch is None else self.launch.complete,
            leases=self.memory.leases,
            pci=self.pci,
        )

    def _fw_cfg_items(self) -> Mapping[int, Item]:
        from pyvmm.machine.fw_cfg_items import machine_items  # Most guests do not ask.

        config = self._config
        return machine_items(self.address_map, config.cpus, self._plan, config.command_line)

    def _load(self) -> None:
        """Put the image where it belongs; RAM is zero."""
        for placement in self._plan.placements:
            self.ram.write(placement.gpa, placement.data)
        if self._tables:
            self.ram.write(ACPI_GPA, self._tables)

    def reset(self) -> None:
        """Memory, devices and controllers as they were made. No vCPU runs; none is private."""
        if self._interrupts:
            self.vm.reset_controllers()
        self.board.reset()
        self.ram.clear()
        self._load()

    def reset_vcpu(self, index: int, vcpu: Vcpu) -> None:
        """A vCPU of a machine that is not private as `create_vcpu` made it; on its thread."""
        vcpu.reset()
        if index == 0:
            vcpu.set_entry(self._plan.entry.regs, self._plan.entry.sregs)

    def _create_vm(self) -> Vm:
        if self._config.private is None:
            return self.system.create_vm()
        vm = self.system.create_vm(VmType.SW_PROTECTED)
        try:
            vm.enable_hypercall_exits(1 << KVM_HC_MAP_GPA_RANGE)
            if self._interrupts:
                # A kernel that has to decode an instruction to step over it cannot do so in private
                # memory: then HLT would exit for ever. So it does not exit at all.
                vm.disable_exits(_DISABLE_HLT)
        except BaseException:
            vm.close()
            raise
        return vm

    def create_vcpu(self, index: int) -> Vcpu:
        """Make a vCPU on the calling thread.

        The first is at the image's entry and others wait; with private memory all of them are at
        the firmware's, as the reset leaves them.
        """
        vcpu = self.vm.create_vcpu(self.apic_id(index))
        try:
            if self._cpu is None:
                vcpu.use_host_cpuid()
            else:
                self._cpu.give(index, vcpu)
            if self._config.private is not None:
                if self._interrupts:
                    vcpu.make_runnable()
            elif index == 0:
                vcpu.set_entry(self._plan.entry.regs, self._plan.entry.sregs)
        except BaseException:
            vcpu.close()
            raise
        return vcpu
