# SPDX-License-Identifier: MIT
"""Commands about network cards, in QEMU's shapes (qapi/net.json)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm.errors import UsageError
from pyvmm.qmp.command import Argument, Arguments, Command, CommandError, ErrorClass, Kind

if TYPE_CHECKING:
    from pyvmm.qmp.served import Served


async def _set_link(served: Served, arguments: Arguments) -> object:
    name, network = arguments["name"], served.machine.network
    if network.find(name) is None:
        raise CommandError(f"Device '{name}' not found", ErrorClass.DEVICE_NOT_FOUND)
    try:
        network.set_link(name, up=arguments["up"])
    except UsageError as error:
        raise CommandError(str(error)) from error
    return {}


NETWORK_COMMANDS = (
    Command("set_link", (Argument("name", Kind.STRING), Argument("up", Kind.BOOLEAN)), _set_link),
)
