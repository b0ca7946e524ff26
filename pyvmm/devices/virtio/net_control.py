# SPDX-License-Identifier: MIT
"""Requests of a network device's control queue (virtio 1.2, section 5.1.6.5). Pure."""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pyvmm.devices.virtio.net_features import (
    GUEST_OFFLOADS,
    MAC_SIZE,
    NetFeature,
    is_card_address,
    is_consistent,
)
from pyvmm.devices.virtio.net_filter import VLANS, Accepts

if TYPE_CHECKING:
    from pyvmm.devices.virtio.net import NetModel

MOST_CONTROL: Final = 1 << 16
"""Bytes of a request; tables of addresses are the longest."""
OK: Final = b"\0"
ERROR: Final = b"\1"
_COUNT: Final = 4


class Command(enum.Enum):
    """Class and number of a command."""

    ALL = (0, 0)
    ALL_MULTICAST = (0, 1)
    ALL_UNICAST = (0, 2)
    NO_MULTICAST = (0, 3)
    NO_UNICAST = (0, 4)
    NO_BROADCAST = (0, 5)
    TABLE = (1, 0)
    ADDRESS = (1, 1)
    ADD_VLAN = (2, 0)
    DELETE_VLAN = (2, 1)
    ANNOUNCED = (3, 0)
    PAIRS = (4, 0)
    OFFLOADS = (5, 0)


FILTER_CLASSES: Final = (0, 1, 2)
"""Classes of commands that change which frames are taken."""
_COMMANDS: Final = {one.value: one for one in Command}


def perform(model: NetModel, request: bytes) -> bytes:
    """Do what a request says, its class and number first. Return the byte that answers it."""
    command = _COMMANDS.get((request[0], request[1])) if len(request) >= 2 else None
    if command is None:
        return ERROR
    needed, action = _ACTIONS[command]
    if not model.negotiated & needed:
        return ERROR
    try:
        action(model, request[2:], command)
    except (ValueError, struct.error):
        return ERROR
    return OK


def _set_accepts(model: NetModel, data: bytes, command: Command) -> None:
    (value,) = data
    if value > 1:
        raise ValueError("it is neither on nor off")
    model.filter.set(Accepts(1 << command.value[1]), on=bool(value))


def _set_table(model: NetModel, data: bytes, _: Command) -> None:
    unicast, rest = _addresses(data)
    multicast, rest = _addresses(rest)
    if rest:
        raise ValueError("there is more than two tables")
    model.filter.set_tables(unicast, multicast)


def _addresses(data: bytes) -> tuple[tuple[bytes, ...], bytes]:
    """Take a table off the beginning."""
    if len(data) < _COUNT:
        raise ValueError("there is no table")
    size = MAC_SIZE * int.from_bytes(data[:_COUNT], "little")
    table, rest = data[_COUNT : _COUNT + size], data[_COUNT + size :]
    if len(table) < size:
        raise ValueError("the table is longer than the request")
    return tuple(table[at : at + MAC_SIZE] for at in range(0, size, MAC_SIZE)), rest


def _set_address(model: NetModel, data: bytes, _: Command) -> None:
    if not is_card_address(data):
        raise ValueError("it is no address of one card")
    model.mac = data


def _set_vlan(model: NetModel, data: bytes, command: Command) -> None:
    (vlan,) = struct.unpack("<H", data)
    if vlan >= VLANS:
        raise ValueError("there is no such VLAN")
    before = model.filter.vlans or frozenset()
    model.filter.vlans = before | {vlan} if command is Command.ADD_VLAN else before - {vlan}


def _announced(model: NetModel, data: bytes, _: Command) -> None:
    if data:
        raise ValueError("there is nothing to be said")
    model.wants_announcement = False


def _set_pairs(model: NetModel, data: bytes, _: Command) -> None:
    (pairs,) = struct.unpack("<H", data)
    if not 1 <= pairs <= model.most_pairs:
        raise ValueError("there are no so many pairs of queues")
    model.pairs = pairs
    model.change()


def _set_offloads(model: NetModel, data: bytes, _: Command) -> None:
    (offloads,) = struct.unpack("<Q", data)
    if offloads & ~(model.negotiated & GUEST_OFFLOADS) or not is_consistent(offloads):
        raise ValueError("these cannot be")
    model.offloads = offloads
    model.change()


_Action = Callable[["NetModel", bytes, Command], None]
_ACTIONS: Final[dict[Command, tuple[NetFeature, _Action]]] = {
    Command.ALL: (NetFeature.CTRL_RX, _set_accepts),
    Command.ALL_MULTICAST: (NetFeature.CTRL_RX, _set_accepts),
    Command.ALL_UNICAST: (NetFeature.CTRL_RX_EXTRA, _set_accepts),
    Command.NO_MULTICAST: (NetFeature.CTRL_RX_EXTRA, _set_accepts),
    Command.NO_UNICAST: (NetFeature.CTRL_RX_EXTRA, _set_accepts),
    Command.NO_BROADCAST: (NetFeature.CTRL_RX_EXTRA, _set_accepts),
    Command.TABLE: (NetFeature.CTRL_RX, _set_table),
    Command.ADDRESS: (NetFeature.CTRL_MAC_ADDR, _set_address),
    Command.ADD_VLAN: (NetFeature.CTRL_VLAN, _set_vlan),
    Command.DELETE_VLAN: (NetFeature.CTRL_VLAN, _set_vlan),
    Command.ANNOUNCED: (NetFeature.GUEST_ANNOUNCE, _announced),
    Command.PAIRS: (NetFeature.MQ, _set_pairs),
    Command.OFFLOADS: (NetFeature.CTRL_GUEST_OFFLOADS, _set_offloads),
}
"""Features that commands need, and what is done."""
