# SPDX-License-Identifier: MIT
"""Commands about the memory balloon, in QEMU's shapes (qapi/machine.json, softmmu/balloon.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm.qmp.command import Argument, Arguments, Command, CommandError, ErrorClass, Kind

if TYPE_CHECKING:
    from pyvmm.machine.virtio.balloon import Balloon
    from pyvmm.qmp.served import Served


def _balloon_of(served: Served) -> Balloon:
    balloon = served.machine.memory.balloon
    if balloon is None:
        raise CommandError("No balloon device has been activated", ErrorClass.DEVICE_NOT_ACTIVE)
    return balloon


async def _balloon(served: Served, arguments: Arguments) -> object:
    balloon = _balloon_of(served)
    if arguments["value"] <= 0:
        raise CommandError("Parameter 'target' expects a size")
    memory = served.machine.config.memory
    balloon.resize(memory - min(arguments["value"], memory))
    return {}


async def _query_balloon(served: Served, _arguments: Arguments) -> object:
    return {"actual": served.machine.config.memory - _balloon_of(served).size}


BALLOON_COMMANDS: tuple[Command, ...] = (
    Command("balloon", (Argument("value", Kind.INTEGER),), _balloon),
    Command("query-balloon", (), _query_balloon),
)
