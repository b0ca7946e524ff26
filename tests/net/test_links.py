# SPDX-License-Identifier: MIT
"""Links of namespaces that are the tests' own."""

from __future__ import annotations

import os
import socket

import pytest

from pyvmm.errors import UsageError
from pyvmm.net.links import opened_links
from pyvmm.net.marks import Mark
from pyvmm.net.namespaces import new_namespace, within

pytestmark = pytest.mark.net


def test_a_bridge_and_a_veth_and_what_reaches_what(netns: int) -> None:
    inside = new_namespace()
    descriptors = len(os.listdir("/proc/self/fd"))

    def make() -> None:
        with opened_links() as links:
            bridge = links.add_bridge("br0", Mark("t", "bridge br0"), mtu=1400)
            end = links.add_veth(
                "v0", Mark("t", "port"), peer="eth0", peer_namespace=inside, mtu=1400
            )
            links.change(end, bridge=bridge, is_up=True)
            links.change(bridge, is_up=True)
            links.add_address(bridge, "10.9.0.1/24")
            found = {link.name: link for link in links.all()}
            assert [name for name, link in found.items() if link.is_of("t")] == ["br0", "v0"]
            assert not found["v0"].is_of("T")
            assert found["v0"].mark == Mark("t", "port")
            assert (found["v0"].master, found["br0"].mtu) == (bridge.index, 1400)

    def make_peer() -> None:
        with opened_links() as links:
            peer = links.find("eth0")
            assert peer is not None
            assert peer.is_of("t")
            assert peer.mark is None
            links.add_address(peer, "10.9.0.2/24")
            links.change(peer, is_up=True)
            links.add_route("0.0.0.0/0", "10.9.0.1")

    def listen() -> socket.socket:
        return socket.create_server(("10.9.0.1", 7))

    def connect() -> socket.socket:
        return socket.create_connection(("10.9.0.1", 7))

    def remove() -> list[str]:
        with opened_links() as links:
            with pytest.raises(UsageError, match="one already"):
                links.add_bridge("v0", Mark("t", "bridge"))
            for link in links.all():
                if link.is_of("t"):
                    links.remove(link)
                    links.remove(link)
            return [link.name for link in links.all()]

    within(netns, make)
    within(inside, make_peer)
    with within(netns, listen) as server, within(inside, connect) as client:
        with server.accept()[0] as accepted:
            client.send(b"x")
            assert accepted.recv(1) == b"x"
    assert within(netns, remove) == ["lo"]
    assert within(inside, remove_nothing) == ["lo"]
    assert len(os.listdir("/proc/self/fd")) == descriptors
    os.close(inside)


def remove_nothing() -> list[str]:
    with opened_links() as links:
        return [link.name for link in links.all()]
