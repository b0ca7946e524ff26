# SPDX-License-Identifier: MIT
"""Commands about network cards, in QEMU's shapes (qapi/net.json)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm.errors import UsageError
from pyvmm.qmp.command import Argument, Arguments, Command, CommandError, ErrorClass, Kind

if TYPE_CHECKING:
    from pyvmm.machine.network.cards import FilterState
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


async def _query_rx_filter(served: Served, arguments: Arguments) -> object:
    network, name = served.machine.network, arguments.get("name")
    found = []
    for card in network.cards if name is None else [network.find(name)]:
        state = None if card is None else network.receive_filter(card.name)
        if card is None or state is None:
            raise CommandError(f"invalid net client name: {name}")
        found.append(_filter_info(card.name, state))
    return found


def _filter_info(name: str, state: FilterState) -> object:
    """RxFilterInfo."""
    from pyvmm.devices.virtio.net_filter import Accepts

    accepts, vlans = state.accepts, state.vlans

    def kind(none: Accepts, every: Accepts) -> str:
        if accepts & none:
            return "none"
        return "all" if accepts & every else "normal"

    return {
        "name": name,
        "promiscuous": bool(accepts & Accepts.ALL),
        "multicast": kind(Accepts.NO_MULTICAST, Accepts.ALL_MULTICAST),
        "unicast": kind(Accepts.NO_UNICAST, Accepts.ALL_UNICAST),
        "vlan": "all" if vlans is None else "normal" if vlans else "none",
        "broadcast-allowed": not accepts & Accepts.NO_BROADCAST,
        "multicast-overflow": bool(accepts & Accepts.MANY_MULTICAST),
        "unicast-overflow": bool(accepts & Accepts.MANY_UNICAST),
        "main-mac": state.mac.hex(":"),
        "vlan-table": sorted(vlans or ()),
        "unicast-table": [one.hex(":") for one in state.unicast],
        "multicast-table": [one.hex(":") for one in state.multicast],
    }


NETWORK_COMMANDS = (
    Command("query-rx-filter", (Argument("name", Kind.STRING, optional=True),), _query_rx_filter),
    Command("set_link", (Argument("name", Kind.STRING), Argument("up", Kind.BOOLEAN)), _set_link),
)
