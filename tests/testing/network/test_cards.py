# SPDX-License-Identifier: MIT
"""Guests at a network of their test's, under each monitor."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import pytest

from pyvmm.errors import UsageError
from pyvmm.testing import (
    AsyncNetwork,
    Booted,
    Boots,
    Network,
    Networks,
    OutcomeKind,
    make_request,
    open_vm,
)
from tests.machine.in_trio import in_trio
from tests.testing.network.ethernet import card
from tests.testing.network.guests import ANSWERED, at, echo

pytestmark = [pytest.mark.slow, pytest.mark.net]

each_monitor = pytest.mark.pyvmm(hosts=["model", "kvm", "qemu-tcg"])


@pytest.mark.parametrize(
    "hosts",
    [
        ("model", "model"),
        pytest.param(("kvm", "kvm"), marks=pytest.mark.kvm),
        pytest.param(("model", "qemu-tcg"), marks=pytest.mark.qemu),
    ],
    ids="-".join,
)
def test_two_guests_ping_each_other(
    boot: Boots, network: Network, tmp_path: Path, hosts: tuple[str, str]
) -> None:
    from scapy.layers import inet, l2
    from scapy.utils import rdpcap

    ports = network.port(), network.port()
    append = [
        at(ports[0], f"ping={ports[1].ip} count=100 serve=1"),
        at(ports[1], f"ping={ports[0].ip} count=100 serve=1"),
    ]
    with (
        network.capture(tmp_path / "all.pcap") as capture,
        boot("net", net=ports[0], append=append[0], host=hosts[0]) as one,
        boot("net", net=ports[1], append=append[1], host=hosts[1]) as other,
    ):
        numbers = [int(other.console.expect(ANSWERED)[1]) for _ in range(3)]
        one.console.expect(ANSWERED)
        assert echo(network, ports[0], b"end") == b"end"
        assert one.wait().kind is OutcomeKind.EXITED
        capture.stop()
    found = rdpcap(str(tmp_path / "all.pcap"))
    pings = [
        (packet[l2.Ether].src, packet[l2.Ether].dst, packet[inet.ICMP].type, packet[inet.ICMP].seq)
        for packet in found
        if inet.ICMP in packet
    ]
    macs = [port.mac.hex(":") for port in ports]
    for number in numbers:
        assert (macs[1], macs[0], 8, number) in pings
        assert (macs[0], macs[1], 0, number) in pings


@each_monitor
def test_the_host_speaks_to_a_guest_by_sockets(boot: Boots, network: Network) -> None:
    port = network.port()
    with boot("net", net=port, append=at(port)) as vm:
        vm.console.expect(f"at {port.ip}")
        assert echo(network, port, b"by UDP") == b"by UDP"
        with network.socket() as ours:
            ours.settimeout(60)
            ours.connect((port.ip, 7))
            ours.sendall(b"by TCP")
            assert ours.recv(6, socket.MSG_WAITALL) == b"by TCP"
        assert echo(network, port, b"end") == b"end"
        assert vm.wait().kind is OutcomeKind.EXITED
        vm.console.expect(re.compile(r"frames: \d+ received, \d+ sent, 0 dropped"))


@each_monitor
def test_a_cable_is_pulled_out_and_put_back(boot: Boots, network: Network) -> None:
    port = network.port()
    with boot("net", net=port, append=at(port)) as vm, card(network.port()) as neighbour:
        vm.console.expect(f"at {port.ip}")
        neighbour.arp(port.ip)
        vm.set_link(False)
        vm.console.expect("link down")
        vm.set_link(True)
        vm.console.expect("link up")
        assert neighbour.arp(port.ip) == port.mac
        with pytest.raises(UsageError, match="the guest has 1 of them"):
            vm.set_link(False, card=1)


@each_monitor
def test_a_port_that_is_down_cuts_a_guest_off(boot: Boots, network: Network) -> None:
    port = network.port()
    port.down()
    with boot("net", net=port, append=at(port, f"ping={network.ip} count=1 serve=1")) as vm:
        vm.console.expect(f"pings of {network.ip}: 1, answered: 0", forbid="link")
        port.up()
        assert echo(network, port) == b"are you there?"


def test_two_with_one_address_are_told(boot: Boots, network: Network) -> None:
    first, second = network.port(), network.port()
    with boot("net", net=first, append=at(first), host="model") as one:
        one.console.expect(f"at {first.ip}")
        with boot("net", net=second, append=at(first), host="model") as other:
            other.console.expect(f"at {first.ip}")
            one.console.expect(f"{first.ip} is also at {second.mac.hex(':')}")


@each_monitor
def test_a_guest_may_have_several_cards(boot: Boots, networks: Networks) -> None:
    first, second = networks().port(mtu=1400), networks("192.0.2.0/24").port()
    with boot("net", net=[first, second], append=at(first)) as vm:
        assert first.mac != second.mac
        vm.console.expect(f"network card {first.mac.hex(':')}, MTU 1400")
        vm.set_link(True, card=1)


@each_monitor
def test_a_card_may_have_several_queues(boot: Boots, network: Network) -> None:
    port = network.port(queues=2)
    with boot("net", net=port, append=at(port)) as vm:
        vm.console.expect(f"at {port.ip}")
        assert echo(network, port, b"by the first") == b"by the first"


@each_monitor
def test_a_saved_guest_goes_on_with_its_card(boot: Boots, network: Network) -> None:
    port = network.port()
    with boot("net", net=port, append=at(port)) as vm:
        vm.console.expect(f"at {port.ip}")
        assert echo(network, port, b"before") == b"before"
        saved = vm.save()
        assert echo(network, port, b"after") == b"after"
        vm.restore(saved)
        assert echo(network, port, b"restored") == b"restored"


def test_a_network_may_end_before_its_guests(boot: Boots, networks: Networks) -> None:
    network = networks()
    port = network.port()
    with boot("net", net=port, append=at(port), host="model") as vm:
        vm.console.expect(f"at {port.ip}")
        network.close()
        vm.stop()
        vm.resume()
        assert vm.outcome is None


def test_a_port_is_free_when_its_guest_has_gone(boot: Boots, network: Network) -> None:
    port = network.port()
    with boot("net", net=port, append=at(port), host="model") as vm:
        vm.console.expect(f"at {port.ip}")
        with pytest.raises(UsageError, match="another guest has it"):
            boot("net", net=port, append=at(port), host="model").__enter__()
    with boot("net", net=port, append=at(port), host="model") as vm:
        vm.console.expect(f"at {port.ip}")
        assert echo(network, port) == b"are you there?"


@in_trio
async def test_in_a_trio_test_it_is_the_same(async_network: AsyncNetwork) -> None:
    port = await async_network.port()
    append = f"ip={port.address} ping={async_network.ip} count=100"
    request = make_request("net", net=port, append=append, host="model")
    async with open_vm(request) as vm:
        await vm.console.expect(ANSWERED)
        assert (await vm.wait()).kind is OutcomeKind.EXITED


def test_a_guest_with_a_card_cannot_start_behind_a_boot(network: Network, booted: Booted) -> None:
    with pytest.raises(UsageError, match="a saved boot is all tests'"):
        booted("echo", until="x", net=network.port())


@pytest.mark.parametrize("net", ["port1", 1, [None]])
def test_what_is_no_port_is_refused(boot: Boots, net: Any) -> None:
    with pytest.raises(UsageError, match=r"it is a port of a network, .*give network\.port\(\)"):
        boot("hello", net=net)


def test_two_cards_have_two_ports(boot: Boots, network: Network) -> None:
    port = network.port()
    with pytest.raises(UsageError, match="two cards cannot have the same port"):
        boot("hello", net=[port, port])
