# SPDX-License-Identifier: MIT
"""Saving a machine, and restoring it, in another one too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import trio

from pyvmm.errors import InternalError, PyvmmError, UsageError
from pyvmm.hosts.interface import Vcpu
from pyvmm.hosts.saved_state import SavedVcpu, require_same_origin
from pyvmm.machine.assembly import Assembly
from pyvmm.machine.config import MachineConfig
from pyvmm.machine.console.port import ConsolePort
from pyvmm.machine.control import RunControl
from pyvmm.machine.guest_memory import GuestMemory
from pyvmm.machine.memory_reading import contents
from pyvmm.machine.saved_machine import (
    SavedConsole,
    SavedMachine,
    SavedMemory,
    require_same_machine,
)
from pyvmm.machine.tracked_memory import ALL_MEMORY
from pyvmm.machine.vcpus import MachineVcpu
from pyvmm.memory.layout import GpaRange
from pyvmm.rules.abi import PAGE_SIZE

_SAVE = "save the machine"
_RESTORE = "restore the machine"
_ZEROES = bytes(PAGE_SIZE)
_WRITTEN_AT_ONCE = 1 << 20
"""The most bytes of guest memory that are written without a worker thread: a fraction of a ms."""


@dataclass(frozen=True, slots=True)
class Inside:
    """Parts of a machine that has been put together."""

    config: MachineConfig
    control: RunControl
    assembly: Assembly
    console: ConsolePort
    vcpus: Sequence[MachineVcpu]


async def save(inside: Inside) -> SavedMachine:
    """Save all of a machine that goes on afterwards as if nothing had been.

    It waits for leases of its memory: what a device is in the middle of is not saved. Raises
    `LeaseHeldError` where one does not end, `UsageError` for a machine with private memory, which
    the host cannot read, and `InternalError` where the guest has ended.
    """
    config, control, assembly = inside.config, inside.control, inside.assembly
    console = inside.console
    _require_shared(config, _SAVE)
    async with control.frozen():
        if control.is_over:
            raise InternalError(_SAVE, "the guest has ended")
        if control.reset_is_asked:
            raise InternalError(_SAVE, "its guest has just reset it", "save it a moment later")
        with assembly.memory.leases.vacating(ALL_MEMORY) as vacating:
            await vacating.wait_in_trio(_SAVE)
            # No task comes between these: neither a device's nor the console's. What a device sends
            # after them is in the local APICs of the vCPUs: at worst an interrupt too many.
            devices, vm = assembly.board.save_devices(), assembly.vm.save()
            queued = SavedConsole(console.total, console.queued_input(), console.input_has_ended)
            vcpus: list[SavedVcpu] = [
                await one.call(lambda vcpu: vcpu.save()) for one in inside.vcpus
            ]
            memory = await trio.to_thread.run_sync(_read, assembly.memory)
            return SavedMachine(
                config=config,
                vcpus=tuple(vcpus),
                vm=vm,
                devices=devices,
                states=assembly.memory.states.runs(),
                memory=memory,
                console=queued,
            )


async def restore(inside: Inside, saved: SavedMachine) -> None:
    """Make a machine what `saved` is, whatever it was; best before its first instruction.

    It waits for leases as a reset does. Raises, before anything has changed, `HostLacksError` for a
    state of another host, version or processor, `UsageError` for one of another configuration (each
    names both sides), and `LeaseHeldError`. If the host fails in the middle, the run fails too.
    """
    config, control, assembly = inside.config, inside.control, inside.assembly
    console = inside.console
    _require_shared(config, _RESTORE)
    require_same_machine(saved.config, config)
    if len(saved.vcpus) != config.cpus:
        cause = f"the state has {len(saved.vcpus)} vCPUs, and this one has {config.cpus}"
        raise UsageError(_RESTORE, cause)
    if [state.index for state in saved.vcpus] != [*map(assembly.apic_id, range(config.cpus))]:
        raise UsageError(_RESTORE, "the state has a vCPU twice, and another one not at all")
    for part in saved.memory:
        if assembly.address_map.file_offset(part.gpa, len(part.data)) is None:
            cause = (
                f"the state has {len(part.data)} bytes at gpa {part.gpa:#x}, where there is no RAM"
            )
            raise UsageError(_RESTORE, cause)
    here = assembly.vm.origin
    for origin in (saved.vm.origin, *(state.origin for state in saved.vcpus)):
        require_same_origin(origin, here)
    async with control.resetting():
        if control.is_over:
            raise InternalError(_RESTORE, "the guest has ended")
        if control.reset_is_asked:  # It would undo this.
            cause = "its guest has just reset it"
            raise InternalError(_RESTORE, cause, "restore it a moment later")
        # From here on the guest is neither what it was nor what it will be. Bounded: a vCPU that
        # does not answer ends the run.
        with (
            trio.CancelScope(shield=True),
            assembly.memory.leases.vacating(ALL_MEMORY) as vacating,
        ):
            await vacating.wait_in_trio(_RESTORE)
            begun = False
            # Input for the UART as it is now would be lost with it.
            with console.holding_input():
                try:
                    # Refuses other devices first. Then lines go up as devices hold them, and what
                    # the controllers have made of that is restored at the end.
                    assembly.board.restore_devices(saved.devices)
                    begun = True
                    await _write_soon(assembly, saved.memory)
                    for vcpu, state in zip(inside.vcpus, saved.vcpus, strict=True):
                        await vcpu.call(partial(_restore_vcpu, state))
                    assembly.vm.restore(saved.vm)
                    # A backend may have raised a line meanwhile, of which these controllers know
                    # nothing. With the devices as they were it raises it again.
                    assembly.board.restore_again(saved.devices)
                except PyvmmError as failure:
                    refused = isinstance(failure, UsageError) and not begun
                    if not (refused or control.is_over):
                        control.fail(failure)
                    raise
                unread, ended = saved.console.unread, saved.console.input_ended
                console.restore_input(unread, ended=ended)


def _restore_vcpu(state: SavedVcpu, vcpu: Vcpu) -> None:
    vcpu.restore(state)


def _require_shared(config: MachineConfig, attempt: str) -> None:
    if config.private is not None:
        raise UsageError(
            attempt,
            "it has private memory, which the host can neither read nor write",
            "leave --private out",
        )


def _read(memory: GuestMemory) -> tuple[SavedMemory, ...]:
    """Everything that is not zero; on a worker thread, while no vCPU runs."""
    regions = memory.regions.sides()
    everything = GpaRange(0, max(sides.region.range.end for sides in regions))
    return tuple(
        part for found in contents(memory, everything) for part in _not_zero(found.gpa, found.data)
    )


def _not_zero(gpa: int, data: memoryview | bytes) -> Iterator[SavedMemory]:
    """The pages of `data` that are not zero, those next to each other as one."""
    start: int | None = None
    for at in range(0, len(data), PAGE_SIZE):
        if data[at : at + PAGE_SIZE] != _ZEROES:
            start = at if start is None else start
        elif start is not None:
            yield SavedMemory(gpa + start, bytes(data[start:at]))
            start = None
    if start is not None:
        yield SavedMemory(gpa + start, bytes(data[start:]))


async def _write_soon(assembly: Assembly, memory: Sequence[SavedMemory]) -> None:
    """Replace all of guest memory; on a worker thread where that takes longer than to get one."""
    if sum(len(part.data) for part in memory) <= _WRITTEN_AT_ONCE:
        _write(assembly, memory)
    else:
        await trio.to_thread.run_sync(_write, assembly, memory)


def _write(assembly: Assembly, memory: Sequence[SavedMemory]) -> None:
    """Replace all of guest memory; while no vCPU runs."""
    assembly.ram.clear()
    for part in memory:
        assembly.ram.write(part.gpa, part.data)
