# SPDX-License-Identifier: MIT
"""Masquerading: connections out of a subnet, as somebody outside sees them."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from pyvmm.errors import HostLacksError, NoPermissionError, PyvmmError, SystemCallError
from pyvmm.net.links import Links
from pyvmm.net.marks import Mark
from pyvmm.net.masquerading import masquerade, masquerading_owners, unmasquerade
from pyvmm.net.namespaces import new_namespace, within
from tests.net.capabilities import without_capabilities
from tests.net.namespace_work import ipv6, with_links

pytestmark = pytest.mark.net
MARK = Mark("t", "x")


@pytest.fixture
def router(netns: int) -> int:
    try:
        within(netns, masquerading_owners)
    except HostLacksError as lacks:
        pytest.skip(str(lacks))
    return netns


@pytest.fixture
def ends(router: int) -> Iterator[tuple[int, int]]:
    """Namespaces inside and outside; only the one inside has a route to the other."""
    inside, outside = new_namespace(), new_namespace()

    def make(links: Links) -> None:
        bridge = links.add_bridge("br0", MARK)
        port = links.add_veth("v0", MARK, peer="eth0", peer_namespace=inside)
        links.change(port, bridge=bridge, is_up=True)
        links.add_address(links.change(bridge, is_up=True), "10.9.4.1/22")
        end = links.add_veth("v1", MARK, peer="eth0", peer_namespace=outside)
        links.add_address(links.change(end, is_up=True), "192.0.2.1/24")

    def make_end(address: str, gateway: str | None, links: Links) -> None:
        link = links.find("eth0")
        assert link is not None
        links.change(link, is_up=True)
        links.add_address(link, address)
        if gateway:
            links.add_route("0.0.0.0/0", gateway)

    with_links(router, make)
    with_links(inside, partial(make_end, "10.9.7.2/22", "10.9.4.1"))
    with_links(outside, partial(make_end, "192.0.2.2/24", None))
    within(router, partial(Path("/proc/sys/net/ipv4/ip_forward").write_text, "1"))
    yield inside, outside
    os.close(inside)
    os.close(outside)


def seen_from(netns: int, listening: int, address: str) -> str:
    """The address that a server sees a client have."""

    def connect() -> socket.socket:
        return socket.create_connection((address, 7), timeout=60)

    with within(listening, partial(socket.create_server, ("0.0.0.0", 7))) as server:
        with within(netns, connect), server.accept()[0] as accepted:
            return str(accepted.getpeername()[0])


def test_what_leaves_has_the_routers_address_and_what_stays_has_its_own(
    router: int, ends: tuple[int, int]
) -> None:
    inside, outside = ends
    within(router, partial(masquerade, "t", [("br0", ["10.9.4.1/22"])]))
    assert within(router, masquerading_owners) == {"t"}
    assert seen_from(inside, outside, "192.0.2.2") == "192.0.2.1"
    assert seen_from(inside, router, "10.9.4.1") == "10.9.7.2"
    assert seen_from(outside, router, "192.0.2.1") == "192.0.2.2"


def test_a_table_goes_as_a_whole_and_others_stay(router: int) -> None:
    within(router, partial(masquerade, "one", [("a", ["10.0.0.0/8"]), ("b", ["10.1.0.0/17"])]))
    within(router, partial(masquerade, "two", [("c", ["172.16.0.0/12"])]))
    with pytest.raises(PyvmmError) as twice:
        within(router, partial(masquerade, "one", [("a", ["10.0.0.0/8"])]))
    assert isinstance(twice.value, SystemCallError)
    assert twice.value.errno == errno.EEXIST
    for _ in range(2):
        within(router, partial(unmasquerade, "one"))
        assert within(router, masquerading_owners) == {"two"}
    within(router, partial(unmasquerade, "two"))
    assert within(router, masquerading_owners) == set()


@ipv6
def test_ipv6_has_a_table_of_its_own(router: int) -> None:
    within(router, partial(masquerade, "t", [("a", ["fd00::/9", "10.0.0.0/8"])]))
    assert within(router, masquerading_owners) == {"t"}
    within(router, partial(unmasquerade, "t"))
    assert within(router, masquerading_owners) == set()


def test_without_capabilities(router: int) -> None:
    work = partial(without_capabilities, partial(masquerade, "t", [("a", ["10.0.0.0/8"])]))
    with pytest.raises(NoPermissionError, match="masquerade for t: it needs CAP_NET_ADMIN"):
        within(router, work)
