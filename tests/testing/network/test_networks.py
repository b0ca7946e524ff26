# SPDX-License-Identifier: MIT
"""Networks of tests without guests: switching, the host, ports, addresses, and what is refused."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyvmm.errors import UsageError
from pyvmm.testing import CannotError
from pyvmm.testing.network.networks import Network, Networks
from tests.testing.network.ethernet import EVERYBODY, TEST_TYPE, card

pytestmark = pytest.mark.net


def test_a_frame_goes_to_whom_it_is_for(network: Network) -> None:
    with card(network.port()) as one, card(network.port()) as other, card(network.port()) as third:
        other.send(EVERYBODY, b"I am here")
        assert one.next()[14:23] == third.next()[14:23] == b"I am here"
        one.send(other.port.mac, b"for you alone")
        one.send(EVERYBODY, b"for all")
        assert other.next()[14:27] == b"for you alone"
        assert third.next()[14:21] == b"for all"


def test_the_host_answers_and_its_sockets_are_the_tests(network: Network) -> None:
    with card(network.port()) as guest:
        mac = guest.arp(network.ip)
        assert len({mac, guest.port.mac, bytes(6)}) == 3
        with network.socket(kind=socket.SOCK_DGRAM) as ours:
            ours.connect((guest.port.ip, 7))
            assert ours.getsockname()[0] == network.ip == "10.0.0.1"
            assert not os.get_inheritable(ours.fileno())
        with network.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("switch", TEST_TYPE))
            raw.send(guest.port.mac + mac + TEST_TYPE.to_bytes(2, "big") + b"by hand".ljust(46))
        assert guest.next()[14:21] == b"by hand"


def test_networks_know_nothing_of_each_other_or_of_this_machine(networks: Networks) -> None:
    before = set(os.listdir("/sys/class/net"))
    with card(networks().port()) as one, card(networks().port()) as other:
        one.send(EVERYBODY, b"one")
        other.send(EVERYBODY, b"other")
        # Asked later, and answered: what was to come has come.
        assert len({one.arp("10.0.0.1"), other.arp("10.0.0.1")}) == 2
        assert [frame for each in (one, other) for frame in each.frames(0)] == []
        assert set(os.listdir("/sys/class/net")) == before


def test_a_port_that_is_down_carries_nothing(network: Network) -> None:
    with card(network.port()) as one, card(network.port()) as other:
        other.port.down()
        one.send(EVERYBODY, b"lost")
        with pytest.raises(OSError) as refused:
            other.send(EVERYBODY, b"lost, too")
        assert refused.value.errno == errno.EIO
        other.port.up()
        one.send(EVERYBODY, b"found")
        assert other.next()[14:19] == b"found"


def test_frames_that_came_while_nobody_was_there_are_gone(network: Network) -> None:
    port = network.port()
    with card(network.port()) as other:
        other.send(EVERYBODY, b"too early")
        with card(port) as late:
            other.send(EVERYBODY, b"in time")
            assert late.next()[14:21] == b"in time"


def test_a_port_with_queues_has_a_descriptor_for_each(network: Network) -> None:
    with network.port(queues=3).taken() as fds:
        assert len(fds) == 3
        assert not any(map(os.get_inheritable, fds))


def test_addresses_are_chosen_so_that_no_two_are_the_same(networks: Networks) -> None:
    network = networks("192.0.2.0/29")
    assert network.address == "192.0.2.1/29"
    taken = network.port(ip="192.0.2.3", mac="52:54:00:70:00:02")
    ports = [taken, *(network.port() for _ in range(4))]
    assert [port.address for port in ports] == [f"192.0.2.{n}/29" for n in (3, 2, 4, 5, 6)]
    assert len({port.mac for port in ports}) == 5
    with pytest.raises(UsageError, match=r"all addresses of 192\.0\.2\.0/29 are somebody's"):
        network.port()


def test_addresses_may_be_of_ipv6_and_are_there_at_once(networks: Networks) -> None:
    network = networks("fd00::/64")
    port = network.port()
    assert (port.ip, port.address) == ("fd00::2", "fd00::2/64")
    network.add_address("fd01::1/64")
    with network.socket(socket.AF_INET6, socket.SOCK_DGRAM) as ours:
        ours.bind((network.ip, 0))
        assert ours.getsockname()[0] == "fd00::1"
    with network.socket(socket.AF_INET6, socket.SOCK_DGRAM) as ours:
        ours.bind(("fd01::1", 0))


REFUSED: list[tuple[Callable[[Network], object], str]] = [
    (lambda network: network.port(ip="10.0.0.2"), "port1 has 10.0.0.2; give another one"),
    (lambda network: network.port(ip="10.0.0.1"), "the network's host has 10.0.0.1"),
    (lambda network: network.port(ip="10.9.0.1"), "10.9.0.1 is not in 10.0.0.0/24"),
    (lambda network: network.port(ip="10.0.0.0"), "10.0.0.0/24 is the subnet's own address"),
    (lambda network: network.port(ip="10.0.0.255"), "the subnet's broadcast address"),
    (lambda network: network.port(ip="x"), "'x' does not appear to be"),
    (lambda network: network.port(mac="52-54-00-70-00-01"), "port1 has 52:54:00:70:00:01"),
    (lambda network: network.port(mac="53:54:00:70:00:01"), "an address of several cards"),
    (lambda network: network.port(mac="5:4"), "'5:4' is no address of a card"),
    (lambda network: network.port(queues=0), "queues=0 is not within 1 and 8"),
    (lambda network: network.port(mtu=67), "mtu=67 is not within 68 and 65521"),
    (lambda network: network.add_address("10.0.0.2/24"), "port1 has 10.0.0.2"),
    (lambda network: network.add_address("10.0.0.1/8"), "the network's host has 10.0.0.1"),
    (lambda network: network.add_address("10.0.7.0/24"), "10.0.7.0/24 is the subnet's own"),
    (lambda network: network.add_address("ten"), "'ten' does not appear to be"),
]


def test_conflicts_and_nonsense_are_refused(network: Network) -> None:
    network.port()
    for ask, told in REFUSED:
        with pytest.raises(UsageError) as refused:
            ask(network)
        assert told in str(refused.value)
    assert network.port().name == "port2"


def test_what_is_no_subnet_is_refused(networks: Networks) -> None:
    for subnet in ("10.0.0.1/24", "10.0.0.0/31", "all", "224.0.0.0/24", "127.0.0.0/8"):
        with pytest.raises(UsageError, match="cannot make a network"):
            networks(subnet)


def test_an_address_more_is_answered_for(network: Network) -> None:
    network.add_address("172.16.0.1/12")
    with card(network.port()) as guest:
        assert guest.arp("172.16.0.1") == guest.arp(network.ip)


def test_a_port_has_one_guest_at_a_time(network: Network) -> None:
    port = network.port()
    with port.taken(), pytest.raises(UsageError, match="another guest has it"), port.taken():
        pass
    with port.taken():
        pass
    network.close()
    with pytest.raises(UsageError, match="its network has gone"), port.taken():
        pass


WRONG: list[dict[str, Any]] = [
    {"loss": 101}, {"delay": -1}, {"delay": 61}, {"jitter": 0.1}, {"corrupt": "x"},
]  # fmt: skip


def test_impairments_that_cannot_be_are_refused(network: Network) -> None:
    port = network.port()
    for wrong in WRONG:
        with pytest.raises(UsageError, match="cannot impair port1"):
            port.impair(**wrong)


def test_netem_is_there_or_its_lack_is_told(network: Network) -> None:
    port = network.port()
    with card(port) as guest, card(network.port()) as other:
        try:
            port.impair(loss=100)
        except CannotError as error:
            assert "this kernel has no netem (CONFIG_NET_SCH_NETEM)" in str(error)
        else:
            other.send(port.mac, b"lost")
        port.impair()
        other.send(port.mac, b"found")
        assert guest.next()[14:19] == b"found"


def test_nothing_stays_of_a_network(networks: Networks) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    networks()
    before = descriptors()
    network = networks()
    holder = network._holder._pidfd
    network.port(queues=2)
    assert descriptors() == before + 4
    pid = next(
        int(line.split()[1])
        for line in Path(f"/proc/self/fdinfo/{holder}").read_text().splitlines()
        if line.startswith("Pid:")
    )
    assert Path(f"/proc/{pid}").exists()
    network.close()
    network.close()
    assert descriptors() == before
    with pytest.raises(ProcessLookupError):
        os.pidfd_open(pid)
