# SPDX-License-Identifier: MIT
"""Machines with ACPI: a guest goes by their tables, is told of the button, and switches off."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
import trio.lowlevel

from pyvmm import bundled_guests
from pyvmm.errors import ExitCode, UsageError
from pyvmm.hosts.topology import Topology
from pyvmm.machine.blocking import run
from pyvmm.machine.config import HostChoice, IrqchipPolicy, MachineConfig, PrivateConfig
from pyvmm.machine.ending import EndingKind
from pyvmm.machine.hardware import Hardware
from pyvmm.machine.machine import Machine
from pyvmm.machine.running import open_machine
from pyvmm.memory.layout import ACPI_GPA, MIB
from tests.machine.in_trio import in_trio

HOSTS = [pytest.param(HostChoice.KVM, marks=pytest.mark.kvm, id="kvm"), HostChoice.MODEL]
each_host = pytest.mark.parametrize("host", HOSTS)
FOUND = b"1 CPUs, SCI 9, PM1a 0x600 and 0x604\n"
HLT = b"\xfa\xf4"
WITH_ACPI = Hardware(acpi=True)


def image(name: str) -> bytes:
    found = bundled_guests.find(name)
    assert found is not None
    return found.path.read_bytes()


def guest(host: HostChoice, command_line: bytes = b"") -> MachineConfig:
    return MachineConfig(
        image("acpi"), memory=32 * MIB, command_line=command_line, host=host, hardware=WITH_ACPI
    )


@each_host
def test_a_guest_finds_the_tables_and_switches_the_machine_off_or_resets_it(
    host: HostChoice,
) -> None:
    off = run(guest(host, b"off=1"))
    assert off.output == FOUND + b"off\n"
    assert off.result.ending.kind is EndingKind.EXITED
    assert off.result.ending.detail == "the guest powered itself off"
    assert off.result.ending.exit_code == 0
    reset = run(guest(host, b"reset=1"))
    assert reset.output == FOUND + b"reset\n"
    assert reset.result.ending.exit_code == int(ExitCode.GUEST_RESET) == 84


async def until(machine: Machine, line: bytes) -> bytes:
    said = b""
    while not said.endswith(line):
        said += await machine.console.receive()
    return said


@each_host
@in_trio
async def test_the_button_is_told_by_the_sci_after_a_reset_and_a_restoring_too(
    host: HostChoice,
) -> None:
    config = guest(host, b"button=1")
    waiting = b"press the button\n"
    async with open_machine(config) as machine, open_machine(config) as other:
        machine.control.resume()
        assert await until(machine, waiting) == FOUND + waiting
        await machine.control.reset()
        assert await until(machine, waiting) == FOUND + waiting
        saved = await machine.control.save()
        await other.control.restore(saved)
        other.control.resume()
        for one in (machine, other):
            one.control.powerdown()
            # The other one has run, too, before it was restored.
            assert (await until(one, b"off\n")).endswith(b"it was pressed\noff\n")
            result = await one.control.wait()
            assert result.ending.exit_code == 0


@pytest.mark.kvm
@in_trio
async def test_vcpus_whose_ids_have_gaps_are_saved_and_restored_by_their_ids() -> None:
    hardware = Hardware(acpi=True, topology=Topology(6, sockets=2))
    config = replace(guest(HostChoice.KVM, b"button=1"), cpus=6, hardware=hardware)
    async with open_machine(config) as machine, open_machine(config) as other:
        machine.control.resume()
        assert (await until(machine, b"button\n")).startswith(b"6 CPUs,")
        saved = await machine.control.save()
        assert [vcpu.index for vcpu in saved.vcpus] == [0, 1, 2, 4, 5, 6]
        await other.control.restore(saved)
        other.control.resume()
        other.control.powerdown()
        assert (await other.control.wait()).ending.exit_code == 0


@each_host
@in_trio
async def test_a_press_that_nobody_has_asked_for_is_only_told_to_listeners(
    host: HostChoice,
) -> None:
    """A guest of our own, without ACPI, goes on; so does one with it that has not enabled it."""
    for hardware in (None, WITH_ACPI):
        config = MachineConfig(
            b"\xeb\xfe", memory=2 * MIB, irqchip=IrqchipPolicy.ON, host=host, hardware=hardware
        )
        async with open_machine(config) as machine:
            machine.control.resume()
            machine.control.powerdown()
            await trio.lowlevel.checkpoint()
            assert machine.control.ending is None
            machine.control.interrupt()


@each_host
@in_trio
async def test_images_that_are_not_made_for_this_machine_have_tables_where_cpuid_agrees(
    host: HostChoice,
) -> None:
    async def starts_with(**options: object) -> bytes:
        config = MachineConfig(HLT, memory=2 * MIB, host=host, **options)  # type: ignore[arg-type]
        async with open_machine(config) as machine:
            content = machine.memory.read(ACPI_GPA, 8)
            assert content is not None
            return content

    rsdp = b"RSD PTR "
    # The model's processors cannot be told to agree, and it has no I/O APIC.
    wanted = rsdp if host is HostChoice.KVM else bytes(8)
    assert await starts_with(irqchip=IrqchipPolicy.ON) == wanted
    assert await starts_with(irqchip=IrqchipPolicy.ON, hardware=Hardware(acpi=False)) == bytes(8)
    assert await starts_with(irqchip=IrqchipPolicy.ON, hardware=WITH_ACPI) == rsdp
    assert await starts_with() == bytes(8), "raw code has no controllers unless asked"


def test_tables_that_cannot_be_are_refused() -> None:
    for config in (
        MachineConfig(HLT, memory=2 * MIB, hardware=WITH_ACPI),
        MachineConfig(
            image("timer"), private=PrivateConfig(bundled_guests.firmware()), hardware=WITH_ACPI
        ),
    ):
        with pytest.raises(UsageError, match="give a machine ACPI tables"):
            run(config)
