# SPDX-License-Identifier: MIT
"""The lab's machine with pyvmm as its monitor, in the keeper's own process: no QEMU is needed.

It is a KVM guest like any other, so what it can do itself with KVM is what this host's KVM can
give on: nested virtualization.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from pyvmm.errors import sole_error
from pyvmm.lab.initramfs import Folder
from pyvmm.lab.settings import LabSettings
from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.machine.hardware import Hardware, PortChoice, Share
from pyvmm.machine.image_file import read_image
from pyvmm.machine.machine import Machine
from pyvmm.machine.running import open_machine
from pyvmm.memory.layout import MIB

_PORT = "pyvmm.lab"
_COMMAND_LINE = b"console=ttyS0 loglevel=5 panic=-1 oops=panic"


def machine_config(
    settings: LabSettings, folders: Sequence[Folder], initrd: bytes, channel_fd: int
) -> MachineConfig:
    """Describe the machine; `channel_fd` is the socket of the command channel.

    Raises what reading the kernel raises.
    """
    shares = (
        Share("root", Path("/")),
        *(
            Share(folder.tag, Path(folder.path), read_only=not folder.writable)
            for folder in folders
        ),
    )
    return MachineConfig(
        read_image(Path(settings.kernel)),
        name=settings.kernel,
        memory=settings.memory // MIB * MIB,
        cpus=settings.all_cpus,
        command_line=_COMMAND_LINE,
        initrd=initrd,
        host=HostChoice.KVM,
        hardware=Hardware(shares=shares, ports=(PortChoice(_PORT, fd=channel_fd),)),
    )


class MachineMonitor:
    """The machine as the lab's monitor. It has ended when its guest has, or could not go on."""

    name = "pyvmm"
    pid = None

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    @property
    def has_ended(self) -> bool:
        """True when the guest runs no more."""
        return self._machine.control.ending is not None

    async def wait(self) -> None:
        """Wait for the end of the run."""
        await self._machine.control.wait()

    def ending(self) -> str:
        """The end of the run, in words."""
        ending = self._machine.control.ending
        return "it still runs" if ending is None else ending.detail


@asynccontextmanager
async def open_pyvmm(
    config: MachineConfig, on_output: Callable[[bytes], None], on_end: Callable[[], None]
) -> AsyncIterator[MachineMonitor]:
    """Run the machine while in the block; `on_output` gets what the kernel says.

    `on_end` is called when the guest has ended: its devices are there until the block is left.

    Raises what opening a machine raises: `HostLacksError` where there is no KVM, and so on.
    """
    try:
        async with open_machine(config) as machine, trio.open_nursery() as nursery:

            async def listen() -> None:
                while data := await machine.console.receive():
                    on_output(data)

            async def watch() -> None:
                await machine.control.wait()
                on_end()

            nursery.start_soon(listen)
            nursery.start_soon(watch)
            yield MachineMonitor(machine)
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise sole_error(group) from None
