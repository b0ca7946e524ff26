# SPDX-License-Identifier: MIT
"""``--net user[,hostfwd=..]`` and ``--net tap[=NAME][,bridge=BR]..``: a network card each.

``hostfwd`` is written as for QEMU's ``-netdev user`` and may come several times.
"""

from __future__ import annotations

import argparse
import ipaddress
import re
from pathlib import Path
from typing import Final

from pyvmm.cli.named_values import named_values, one_of
from pyvmm.cli.sizes import parse_count
from pyvmm.devices.virtio.net_features import LEAST_MTU, MOST_MTU, is_card_address
from pyvmm.machine.hardware import NetCard, TapNet, UserNet, VhostChoice
from pyvmm.net.device_names import LONGEST_NAME, is_device_name
from pyvmm.net.forwards import Forward, ForwardProtocol
from pyvmm.net.host_address import parse_host_address

MOST_QUEUES: Final = 16
"""Pairs of queues of a card."""

_OF_ALL: Final = ("mac", "mtu", "pcap")
_OF_TAPS: Final = ("bridge", "netns", "addr", "queues", "vhost", *_OF_ALL)
_OF_USERS: Final = ("hostfwd", *_OF_ALL)
_FORWARD: Final = re.compile(
    r"(?P<protocol>tcp|udp|):(?:\[(?P<address6>[^]]*)\]|(?P<address>[^:]*)):(?P<port>[0-9]{1,5})"
    r"-(?P<guest>[^:]*):(?P<guest_port>[0-9]{1,5})",
    re.ASCII,
)


def parse_net(text: str) -> NetCard:
    """Parse a value of ``--net``. Raises `argparse.ArgumentTypeError`."""
    kind, equals, name = text.partition(",")[0].partition("=")
    if kind == "user" and not equals:
        given, forwards = _user_values(text)
        return _card(UserNet(forwards), given)
    if kind != "tap" or (equals and not name):
        raise argparse.ArgumentTypeError(
            f"{text!r} cannot be: it begins with user, tap or tap=NAME"
        )
    whole, given = named_values(text, _OF_TAPS)
    tap = TapNet(
        name=_interface("tap", whole.partition("=")[2]) if equals else None,
        bridge=_interface("bridge", given["bridge"]) if "bridge" in given else None,
        netns=_namespace(given["netns"]) if "netns" in given else None,
        address=_address(given["addr"]) if "addr" in given else None,
        queues=_number("queues", given.get("queues", "1"), 1, MOST_QUEUES),
        vhost=one_of(VhostChoice, "vhost", given.get("vhost", "auto")),
    )
    if tap.bridge is not None and tap.address is not None:
        raise argparse.ArgumentTypeError(
            f"{text!r} cannot be: a tap in a bridge has no address; the bridge may have one"
        )
    return _card(tap, given)


def parse_forward(text: str) -> Forward:
    """Parse a value of ``hostfwd``. Raises `argparse.ArgumentTypeError`."""
    found = _FORWARD.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(
            f"hostfwd={text} cannot be: it is tcp:[ADDRESS]:PORT-:PORT, as in hostfwd=tcp::2222-:22"
        )
    if found["guest"]:
        raise argparse.ArgumentTypeError(
            f"hostfwd={text} cannot be: behind the '-' is a port alone, :{found['guest_port']}"
        )
    address = found["address6"] if found["address6"] is not None else found["address"]
    if address or found["address6"] is not None:
        try:
            address = str(ipaddress.ip_address(address))
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"hostfwd={text} cannot be: {address!r} is no IP address"
            ) from None
    return Forward(
        ForwardProtocol(found["protocol"] or "tcp"),
        _number("a port", found["port"], 1, 65_535),
        _number("a port", found["guest_port"], 1, 65_535),
        address,
    )


def _user_values(text: str) -> tuple[dict[str, str], tuple[Forward, ...]]:
    """Split the values of ``user``, of which forwards alone may come more than once."""
    # No argument has a zero byte, so that it can stand for a doubled comma meanwhile.
    parts = text.replace(",,", "\0").split(",")
    asked = [part for part in parts if part.startswith("hostfwd=")]
    forwards = tuple(parse_forward(part.removeprefix("hostfwd=")) for part in asked)
    taken = set()
    for forward in forwards:
        place = (forward.protocol, forward.host_address, forward.host_port)
        if place in taken:
            raise argparse.ArgumentTypeError(
                f"{text!r} forwards {forward.protocol.value} port {forward.host_port} twice"
            )
        taken.add(place)
    others = ",".join(part for part in parts if part not in asked).replace("\0", ",,")
    return named_values(others, _OF_USERS)[1], forwards


def _card(wire: UserNet | TapNet, given: dict[str, str]) -> NetCard:
    if given.get("pcap") == "":
        raise argparse.ArgumentTypeError("pcap= names no file")
    return NetCard(
        wire,
        mac=_mac(given["mac"]) if "mac" in given else None,
        mtu=_number("mtu", given["mtu"], LEAST_MTU, MOST_MTU) if "mtu" in given else None,
        capture=Path(given["pcap"]) if "pcap" in given else None,
    )


def _mac(text: str) -> bytes:
    if not re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", text, re.ASCII | re.IGNORECASE):
        raise argparse.ArgumentTypeError(f"mac={text} cannot be: it is as in 52:54:00:12:34:56")
    mac = bytes.fromhex(text.replace(":", ""))
    if not is_card_address(mac):
        raise argparse.ArgumentTypeError(
            f"mac={text} cannot be: no card may have it (its first byte is even, and not all are 0)"
        )
    return mac


def _interface(option: str, name: str) -> str:
    if not is_device_name(name):
        raise argparse.ArgumentTypeError(
            f"{option}={name} cannot be: it is at most {LONGEST_NAME} bytes without / : % and space"
        )
    return name


def _namespace(name: str) -> str:
    if not name or name in (".", ".."):
        raise argparse.ArgumentTypeError(
            f"netns={name} cannot be: it is a name of ip-netns(8), or a path"
        )
    return name


def _address(text: str) -> str:
    try:
        return str(parse_host_address(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"addr={text} cannot be: it is {error}") from None


def _number(name: str, text: str, least: int, most: int) -> int:
    number = parse_count(text)
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"{name}={text} cannot be: it is {least} to {most}")
    return number
