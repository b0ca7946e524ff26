# SPDX-License-Identifier: MIT
"""``--net``: what may be said, and what cannot be."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from pyvmm.cli.main import main
from pyvmm.cli.net_option import parse_net
from pyvmm.errors import ExitCode
from pyvmm.machine.hardware import NetCard, TapNet, UserNet, VhostChoice
from pyvmm.net.forwards import Forward, ForwardProtocol

TCP = ForwardProtocol.TCP
UDP = ForwardProtocol.UDP


@pytest.mark.parametrize(
    ("text", "card"),
    [
        ("user", NetCard(UserNet())),
        (
            "user,mac=52:54:00:AB:cd:ef,mtu=1400,pcap=a,,b.pcap",
            NetCard(
                UserNet(), mac=bytes.fromhex("525400abcdef"), mtu=1400, capture=Path("a,b.pcap")
            ),
        ),
        ("user,hostfwd=tcp::2222-:22", NetCard(UserNet((Forward(TCP, 2222, 22),)))),
        ("user,hostfwd=::2222-:22", NetCard(UserNet((Forward(TCP, 2222, 22),)))),
        (
            "user,hostfwd=udp:127.0.0.1:53-:5353,mtu=68,hostfwd=tcp:[::1]:80-:8080",
            NetCard(
                UserNet((Forward(UDP, 53, 5353, "127.0.0.1"), Forward(TCP, 80, 8080, "::1"))),
                mtu=68,
            ),
        ),
        (
            "user,hostfwd=tcp:127.0.0.1:80-:80,hostfwd=tcp:127.0.0.2:80-:80,hostfwd=udp::80-:80",
            NetCard(
                UserNet(
                    (
                        Forward(TCP, 80, 80, "127.0.0.1"),
                        Forward(TCP, 80, 80, "127.0.0.2"),
                        Forward(UDP, 80, 80),
                    )
                )
            ),
        ),
        ("tap", NetCard(TapNet())),
        ("tap=vm0", NetCard(TapNet("vm0"))),
        (
            "tap=a-name-of-15-by,bridge=br0,netns=left,queues=4,vhost=on,pcap=f",
            NetCard(
                TapNet("a-name-of-15-by", "br0", "left", queues=4, vhost=VhostChoice.ON),
                capture=Path("f"),
            ),
        ),
        ("tap,addr=10.0.0.1/24", NetCard(TapNet(address="10.0.0.1/24"))),
        ("tap,addr=fd00::1/64", NetCard(TapNet(address="fd00::1/64"))),
        ("tap,netns=/proc/1/ns/net", NetCard(TapNet(netns="/proc/1/ns/net"))),
    ],
)
def test_what_may_be_said(text: str, card: NetCard) -> None:
    assert parse_net(text) == card


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "begins with user, tap or tap=NAME"),
        ("users", "begins with user"),
        ("user=x", "begins with user"),
        ("tap=", "begins with user"),
        ("bridge=br0", "begins with user"),
        ("user,tap=x", "it may be hostfwd=, mac="),
        ("user,queues=2", "it may be hostfwd=, mac="),
        ("user,", "it may be"),
        ("tap,hostfwd=tcp::1-:1", "it may be bridge="),
        ("tap,queues=1,queues=2", "comes twice"),
        ("user,mtu=1,mtu=2", "comes twice"),
        ("tap,queues=0", "queues=0 cannot be: it is 1 to 16"),
        ("tap,queues=17", "it is 1 to 16"),
        ("tap,queues=two", "no whole number"),
        ("tap,vhost=yes", "it is on or off or auto"),
        ("tap=a-name-of-16-byt", "at most 15 bytes"),
        ("tap=a/b", "without / : % and space"),
        ("tap=a%d", "without / : % and space"),
        ("tap=..", "cannot be"),
        ("tap,bridge=", "bridge= cannot be"),
        ("tap,netns=", "netns= cannot be"),
        ("tap,netns=..", "cannot be"),
        ("tap,addr=10.0.0.1", "as in 10.0.0.1/24"),
        ("tap,addr=10.0.0.300/24", "as in 10.0.0.1/24"),
        ("tap,addr=10.0.0.1/33", "as in 10.0.0.1/24"),
        ("tap,addr=fe80::1%eth0/64", "as in 10.0.0.1/24"),
        ("tap,addr=10.0.1.0/24", "addr=10.0.1.0/24 cannot be: it is the subnet's own address"),
        ("tap,addr=10.0.1.255/24", "it is the subnet's broadcast address, which no host can have"),
        ("tap,addr=0.0.0.0/0", "it is no address that a host can have"),
        ("tap,addr=224.0.0.1/24", "it is no address that a host can have"),
        ("tap,bridge=b,addr=10.0.0.1/24", "a tap in a bridge has no address"),
        ("user,mtu=67", "it is 68 to 65535"),
        ("user,mtu=65536", "it is 68 to 65535"),
        ("user,pcap=", "names no file"),
        ("user,mac=52:54:00:12:34", "as in 52:54:00:12:34:56"),
        ("user,mac=525400123456", "as in"),
        ("user,mac=53:54:00:12:34:56", "no card may have it"),
        ("user,mac=00:00:00:00:00:00", "no card may have it"),
        ("user,hostfwd=", "as in hostfwd=tcp::2222-:22"),
        ("user,hostfwd=2222-22", "as in hostfwd=tcp::2222-:22"),
        ("user,hostfwd=icmp::1-:1", "as in hostfwd"),
        ("user,hostfwd=tcp::1-:2:3", "as in hostfwd"),
        ("user,hostfwd=tcp::0-:22", "a port=0 cannot be"),
        ("user,hostfwd=tcp::22-:65536", "a port=65536 cannot be"),
        ("user,hostfwd=tcp:here:22-:22", "'here' is no IP address"),
        ("user,hostfwd=tcp:[]:22-:22", "'' is no IP address"),
        ("user,hostfwd=tcp::22-10.0.2.15:22", "a port alone, :22"),
        ("user,hostfwd=tcp::22-:22,hostfwd=tcp::22-:23", "forwards tcp port 22 twice"),
    ],
)
def test_what_cannot_be(text: str, why: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=why):
        parse_net(text)


def test_a_refusal_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "hello", "--net", "user,hostfwd=22"]) == ExitCode.USAGE
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert "hostfwd=22 cannot be" in said
