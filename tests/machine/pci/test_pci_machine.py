# SPDX-License-Identifier: MIT
"""Machines with a PCI bus, and guests that look at it and use it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest
import trio

from pyvmm import bundled_guests
from pyvmm.devices.placement import PlacedDevice, Space
from pyvmm.errors import UsageError
from pyvmm.machine.block_store import MemoryStore
from pyvmm.machine.blocking import run
from pyvmm.machine.config import HostChoice, IrqchipPolicy, MachineConfig, PrivateConfig
from pyvmm.machine.device_choice import DeviceChoice
from pyvmm.machine.ending import EndingKind
from pyvmm.machine.pci.function import place_pci
from pyvmm.machine.running import running
from pyvmm.machine.saved_machine import SavedMachine
from pyvmm.machine.virtio.block import block_device
from pyvmm.machine.wiring import Wiring
from pyvmm.memory.address_map import RangeKind
from pyvmm.memory.layout import ECAM_GPA, MIB
from tests.machine.guests import bundled

HOSTS = [pytest.param(HostChoice.KVM, marks=pytest.mark.kvm, id="kvm"), HostChoice.MODEL]
SECTORS = 64
HANG = 120.0
LAB_HANG = 300.0
"""Where the processor is an emulated one."""
START = [b"virtio block: 64 sectors, id disk 0", b"refused what cannot be"]
LOOKED = """\
slot 0: 1b36:0008 class 0600
slot 1: 1af4:1042 class 0100
  bar 0: ports at 0xc000, 256 bytes
  bar 1: memory at 0xc0000000, 4096 bytes
slot 2: 1af4:1042 class 0100
  bar 0: ports at 0xc100, 256 bytes
  bar 1: memory at 0xc0001000, 4096 bytes
moved and back
still here
nothing was covered
reached by configuration space
2 messages, each when it was not masked
"""


def place(store: MemoryStore, name: str, wiring: Wiring) -> PlacedDevice:
    return place_pci(block_device(store, name), wiring)


def machine_with(
    guest: str, *stores: MemoryStore, host: HostChoice, command_line: bytes = b""
) -> MachineConfig:
    added = tuple(partial(place, store, f"disk {number}") for number, store in enumerate(stores))
    return MachineConfig(
        bundled(guest),
        memory=2 * MIB,
        host=host,
        command_line=command_line,
        devices=DeviceChoice(added=added, pci=True),
        timeout=HANG,
    )


def empty() -> MemoryStore:
    return MemoryStore(bytearray(SECTORS * 512))


@pytest.mark.parametrize("host", HOSTS)
def test_a_guest_sizes_moves_and_covers_bars_and_takes_messages(host: HostChoice) -> None:
    completed = run(machine_with("pci", empty(), empty(), host=host))
    assert completed.output.decode() == LOOKED
    assert completed.result.ending.status == 0


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("command_line", [b"", b" msix=1"], ids=["INTx", "MSI-X"])
def test_a_guest_uses_a_disk_on_pci(host: HostChoice, command_line: bytes) -> None:
    store = empty()
    command_line = b"rounds=2 resets=1" + command_line
    completed = run(machine_with("block", store, host=host, command_line=command_line))
    assert completed.output.splitlines() == [
        *START, b"was reset in the middle", b"round 1", b"round 2",
    ]  # fmt: skip
    ending = completed.result.ending
    assert (ending.kind, ending.status) == (EndingKind.EXITED, 0)
    assert store.data[: 8 * 512] != bytes(8 * 512)


@pytest.mark.parametrize("host", HOSTS)
def test_a_private_guest_uses_a_disk_by_ports_alone(
    host: HostChoice, request: pytest.FixtureRequest
) -> None:
    if host is HostChoice.KVM:
        request.getfixturevalue("private_host")
    store = empty()
    config = replace(
        machine_with("block", store, host=host, command_line=b"rounds=1"),
        memory=16 * MIB,
        private=PrivateConfig(bundled_guests.firmware()),
        timeout=LAB_HANG,
    )
    assert not config.address_map().has(RangeKind.ECAM)
    completed = run(config)
    assert completed.output.splitlines() == [*START, b"round 1"]
    assert completed.result.ending.status == 0
    assert store.data[: 8 * 512] != bytes(8 * 512)
    looked = run(replace(config, image=bundled("pci"), command_line=b""))
    lines = looked.output.decode().splitlines()
    assert "  bar 1: memory at 0xf0000000, 4096 bytes" in lines
    assert lines[-1] == "reached by configuration space"
    assert looked.result.ending.status == 0


class Watched(MemoryStore):
    """A store that tells when something has been written, and holds up the first write."""

    def __init__(self) -> None:
        super().__init__(bytearray(SECTORS * 512))
        self.begun, self.go_on = trio.Event(), trio.Event()

    async def write(self, offset: int, data: Sequence[memoryview]) -> None:
        self.begun.set()
        await self.go_on.wait()
        await super().write(offset, data)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("command_line", [b"", b" msix=1"], ids=["INTx", "MSI-X"])
def test_a_machine_is_saved_in_the_middle_of_a_request_and_goes_on_in_another(
    host: HostChoice, command_line: bytes
) -> None:
    store = Watched()
    config = machine_with("block", store, host=host, command_line=b"rounds=2" + command_line)

    async def first() -> SavedMachine:
        async with running(config) as made:
            await store.begun.wait()
            await made.machine.control.pause()
            saved: list[SavedMachine] = []
            async with trio.open_nursery() as nursery:

                async def save() -> None:
                    saved.append(await made.machine.control.save())

                nursery.start_soon(save)
                store.go_on.set()
            return saved[0]

    async def second(saved: SavedMachine) -> list[bytes]:
        async with running(config, saved=saved) as made:
            result = await made.machine.control.wait()
            assert result.ending.status == 0, result
            return made.port.receive_nowait().splitlines()

    assert trio.run(second, trio.run(first)) == [b"round 1", b"round 2"]


@pytest.mark.parametrize("host", HOSTS)
def test_a_reset_takes_bars_and_doorbells_away_and_the_guest_comes_back(host: HostChoice) -> None:
    async def main() -> list[bytes]:
        store = Watched()
        config = machine_with("block", store, host=host, command_line=b"rounds=1 msix=1")
        async with running(config) as made:
            control, assembly = made.machine.control, made.assembly
            await store.begun.wait()
            store.go_on.set()
            pci = assembly.pci
            assert pci is not None
            await control.pause()
            decoded = [one.start for one in pci.windows.windows(Space.PORT)]
            in_use = assembly.interrupts.count
            await control.reset()
            assert decoded == [0xC000]
            assert [*pci.windows.windows(Space.PORT)] == []
            # Its message and its doorbell.
            assert assembly.interrupts.count == in_use - 2
            control.resume()
            result = await control.wait()
            assert result.ending.status == 0, result
            return made.port.receive_nowait().splitlines()

    lines = trio.run(main)
    assert lines[:2] == START
    assert lines[-3:] == [*START, b"round 1"]


def test_no_bar_covers_memory_or_what_the_host_answers_by_itself() -> None:
    async def main() -> None:
        config = machine_with("block", empty(), host=HostChoice.MODEL)
        async with running(config, paused=True) as made:
            pci = made.assembly.pci
            assert pci is not None
            function = dict(pci.segment)[1]
            function.write(4, 2, 3)
            for port in (0x400, 0xD00):  # The trigger registers are the host's.
                function.write(0x10, 4, port)
                assert pci.windows.start(function, 0) == (port if port != 0x400 else None)
            for gpa in (0x10_0000, 0x20_0000, 0xFEC0_0000, 0xFEE0_0000, ECAM_GPA):
                function.write(0x14, 4, gpa)
                assert pci.windows.start(function, 1) == (gpa if gpa == 0x20_0000 else None)

    trio.run(main)


def test_a_machine_without_devices_on_it_has_no_pci() -> None:
    config = MachineConfig(bundled("hello"))
    assert not config.has_pci
    assert not config.address_map().has(RangeKind.ECAM)
    with_pci = machine_with("hello", host=HostChoice.MODEL)
    (ecam,) = with_pci.address_map().of_kind(RangeKind.ECAM)
    assert ecam.range == (ECAM_GPA, ECAM_GPA + MIB)


def test_more_devices_than_slots_and_no_interrupt_controllers_are_refused_in_one_line() -> None:
    stores = [empty() for _ in range(32)]
    with pytest.raises(UsageError, match="slot 32; a bus has 31") as refused:
        run(machine_with("block", *stores, host=HostChoice.MODEL))
    assert "disk 31" in str(refused.value)
    off = machine_with("block", empty(), host=HostChoice.MODEL)
    off = MachineConfig(
        off.image, memory=off.memory, host=off.host, devices=off.devices, irqchip=IrqchipPolicy.OFF
    )
    with pytest.raises(UsageError, match="no interrupt controllers"):
        run(off)
