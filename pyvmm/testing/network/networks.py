# SPDX-License-Identifier: MIT
"""A network of a test's: a switch in a namespace of its own, and its host, the namespace itself."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from contextlib import ExitStack, suppress

from pyvmm.errors import PyvmmError, UsageError
from pyvmm.hosts.owner import Owner
from pyvmm.net.host_address import usable
from pyvmm.testing.failures import is_told
from pyvmm.testing.network.channel import close_all
from pyvmm.testing.network.holders import Holders
from pyvmm.testing.network.messages import (
    AddAddress,
    AddPort,
    Answer,
    OpenNetwork,
    OpenSocket,
    Request,
)
from pyvmm.testing.network.ports import Port
from pyvmm.testing.network.recordings import Capture, Recording, open_file

__tracebackhide__ = is_told

SUBNET = "10.0.0.0/24"
_MTUS = range(68, 65_522)
"""From what IPv4 asks for (RFC 791) to what a tap takes (MAX_MTU of drivers/net/tun.c)."""
_MOST_QUEUES = 8
_HOST = "the network's host"
_OWN = b"\x52\x54\x00"
"""Beginning of cards' addresses that nobody has said, as of QEMU's; the network's follows."""
_FIRST_NETWORK = 0x70


class Network(Owner):
    """A switch that nothing outside of its test is connected to. It blocks, for milliseconds.

    All methods raise `CannotError` for what this machine does not do, or does not let us,
    `UsageError`, and `SystemCallError`.
    """

    def __init__(
        self, holders: Holders, subnet: str = SUBNET, *, mtu: int = 1500, number: int = 0
    ) -> None:
        """Make it. `subnet` is CIDR, of IPv4 or IPv6; `mtu` is in bytes.

        Cards of networks with another `number` have other addresses.
        """
        attempt = f"make a network {subnet}"
        try:
            self._subnet = ipaddress.ip_network(subnet)
        except ValueError as error:
            raise UsageError(attempt, str(error)) from error
        if self._subnet.num_addresses < 4:
            raise UsageError(attempt, "it has no addresses for guests", "give a shorter prefix")
        self._mtu = _checked_mtu(attempt, mtu)
        self._number = number
        self.ip = str(self._subnet[1])
        """Address of the network's host, which is the namespace itself: it answers pings."""
        self.address = self._with_prefix(self.ip)
        """The same with the length of the prefix."""
        _require_usable(attempt, self.address)
        self._users = {self.ip: _HOST}
        """Names of those who have an address, of IP's or of a card."""
        self._ports: list[Port] = []
        self._recording: Recording | None = None
        self._holder = holders.open(OpenNetwork(self.address, self._mtu))

    def _with_prefix(self, ip: str) -> str:
        return f"{ip}/{self._subnet.prefixlen}"

    def port(
        self,
        *,
        mac: str | None = None,
        ip: str | None = None,
        mtu: int | None = None,
        queues: int = 1,
    ) -> Port:
        """Another port, for one guest: ``boot(..., net=network.port())``.

        `mac` is the card's address, and `ip` is set aside for the guest, which has to be told it
        (``append=f"ip={port.address}"``); both are chosen where nobody says them. Raises
        `UsageError` for those that somebody on this network has.
        """
        name = f"port{len(self._ports) + 1}"
        attempt = f"add {name} to the network"
        if not (isinstance(queues, int) and 1 <= queues <= _MOST_QUEUES):
            raise UsageError(attempt, f"queues={queues!r} is not within 1 and {_MOST_QUEUES}")
        wanted_mtu = self._mtu if mtu is None else _checked_mtu(attempt, mtu)
        hardware = self._free_mac() if mac is None else _parsed_mac(attempt, mac)
        chosen = self._free_ip(attempt) if ip is None else self._parsed_ip(attempt, ip)
        for one in (hardware.hex(":"), chosen):
            if one in self._users:
                raise UsageError(attempt, f"{self._users[one]} has {one}", "give another one")
        _, taps = self._holder.ask(AddPort(name, queues, wanted_mtu))
        port = Port(
            self.ask, name, taps, mac=hardware, address=self._with_prefix(chosen), mtu=wanted_mtu
        )
        self._ports.append(port)
        self._users |= {hardware.hex(":"): name, chosen: name}
        return port

    def _free_mac(self) -> bytes:
        number = len(self._ports) + 1
        while (found := self._mac(number)).hex(":") in self._users:
            number += 1
        return found

    def _mac(self, port: int) -> bytes:
        network = (_FIRST_NETWORK + self._number) % 256
        return _OWN + bytes((network,)) + port.to_bytes(2, "big")

    def _free_ip(self, attempt: str) -> str:
        for number in range(2, min(self._subnet.num_addresses - 1, len(self._users) + 3)):
            if (found := str(self._subnet[number])) not in self._users:
                return found
        raise UsageError(attempt, f"all addresses of {self._subnet} are somebody's")

    def _parsed_ip(self, attempt: str, ip: str) -> str:
        try:
            found = ipaddress.ip_address(ip)
        except ValueError as error:
            raise UsageError(attempt, str(error)) from error
        if found not in self._subnet:
            raise UsageError(attempt, f"{ip} is not in {self._subnet}")
        _require_usable(attempt, self._with_prefix(str(found)))
        return str(found)

    def add_address(self, address: str) -> None:
        """Give the network's host another address (CIDR, of any subnet).

        Raises `UsageError` for one that it has, or that is set aside for a guest.
        """
        attempt = f"give the network's host {address}"
        try:
            ip = str(ipaddress.ip_interface(address).ip)
        except ValueError as error:
            raise UsageError(attempt, str(error)) from error
        _require_usable(attempt, address)
        if ip in self._users:
            raise UsageError(attempt, f"{self._users[ip]} has {ip}", "give another one")
        self._holder.ask(AddAddress(address))
        self._users[ip] = _HOST

    def socket(
        self,
        family: int = socket.AF_INET,
        kind: int = socket.SOCK_STREAM,
        protocol: int = 0,
    ) -> socket.socket:
        """A socket of the network's host, to speak to guests by; the caller closes it.

        Any that there is: raw ones and AF_PACKET's, too, whoever runs the test.
        """
        _, (descriptor,) = self._holder.ask(OpenSocket(int(family), int(kind), int(protocol)))
        return socket.socket(fileno=descriptor)

    def capture(self, path: str | os.PathLike[str]) -> Capture:
        """Write all frames from now on to a file, as pcap, until ``capture.stop()``.

        Each is there once, as its sender sent it: what a port that is down or impaired does not
        deliver, too. Also a context manager, which stops it. Raises `SystemCallError` where the
        file cannot be opened, `UsageError` for another capture's, and for no regular file.
        """
        file = open_file(path)
        try:
            return Capture(self.ask, file, os.fspath(path))
        finally:
            os.close(file)

    def record(self, recording: Recording) -> None:
        """Have all frames from now on in `recording`, which is somebody else's."""
        recording.begin(self.ask)
        self._recording = recording

    def ask(self, request: Request, *descriptors: int) -> Answer:
        """Have the network's process do what gives no descriptor."""
        answer, given = self._holder.ask(request, *descriptors)
        close_all(given)
        return answer

    def close(self) -> None:
        """End it, once: its ports, its addresses, its captures."""
        with ExitStack() as stack:
            stack.callback(self._holder.close)
            if self._recording is not None:
                with suppress(PyvmmError):  # It is told where the recording is wanted.
                    self._recording.stop()
            for port in self._ports:
                stack.callback(port.close)


class Networks(Owner):
    """Factory of networks; what it has made is gone when it is closed."""

    def __init__(self, holders: Holders, recordings: list[Recording] | None = None) -> None:
        """With `recordings` each network adds one to these; whose list it is closes them."""
        self._holders = holders
        self._made: list[Network] = []
        self._recordings = recordings

    def __call__(self, subnet: str = SUBNET, *, mtu: int = 1500) -> Network:
        """Make a network that no other is connected to. Raises as `Network`."""
        network = Network(self._holders, subnet, mtu=mtu, number=len(self._made))
        self._made.append(network)
        if self._recordings is not None:
            recording = Recording()
            self._recordings.append(recording)
            network.record(recording)
        return network

    def close(self) -> None:
        """End all of them."""
        made, self._made = self._made, []
        with ExitStack() as stack:
            for network in made:
                stack.callback(network.close)


def _require_usable(attempt: str, address: str) -> None:
    """Raise `UsageError` for an address (CIDR) that no host can have."""
    try:
        usable(ipaddress.ip_interface(address))
    except ValueError as error:
        raise UsageError(attempt, f"{address} is {error}", "give another one") from error


def _checked_mtu(attempt: str, mtu: int) -> int:
    if not (isinstance(mtu, int) and mtu in _MTUS):
        raise UsageError(attempt, f"mtu={mtu!r} is not within {_MTUS.start} and {_MTUS.stop - 1}")
    return mtu


def _parsed_mac(attempt: str, mac: str) -> bytes:
    if not re.fullmatch(r"([0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}", mac):
        raise UsageError(attempt, f"{mac!r} is no address of a card (02:00:00:00:00:01)")
    found = bytes.fromhex(mac.replace(":", "").replace("-", ""))
    if found[0] & 1 or not any(found):
        raise UsageError(attempt, f"{mac} is an address of several cards, or of none")
    return found
