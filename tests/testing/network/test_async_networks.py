# SPDX-License-Identifier: MIT
"""Networks in trio tests."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from pyvmm.testing import AsyncNetwork, CannotError, make_request
from tests.machine.in_trio import in_trio
from tests.testing.network.ethernet import EVERYBODY, card
from tests.testing.network.test_captures import said

pytestmark = [pytest.mark.slow, pytest.mark.net]


@in_trio
async def test_what_a_network_does_is_awaited(async_network: AsyncNetwork, tmp_path: Path) -> None:
    port = await async_network.port(mac="02:00:00:00:00:09", ip="10.0.0.9", mtu=1400, queues=2)
    assert (port.name, port.mac[-1], port.mtu) == ("port1", 9, 1400)
    assert (port.ip, port.address) == ("10.0.0.9", "10.0.0.9/24")
    await async_network.add_address("10.1.0.1/24")
    assert (async_network.ip, async_network.address) == ("10.0.0.1", "10.0.0.1/24")
    other = await async_network.port()
    with card(other.port) as guest:
        await other.down()
        with pytest.raises(OSError, match="Input/output error"):
            guest.send(EVERYBODY, b"lost")
        await other.up()
        async with async_network.capture(tmp_path / "all.pcap"):
            guest.send(EVERYBODY, b"found")
        assert said(tmp_path / "all.pcap", [guest]) == [b"found"]
        with await async_network.socket(kind=socket.SOCK_DGRAM) as ours:
            await ours.connect((other.ip, 9))
            assert ours.getsockname()[0] == async_network.ip
            assert guest.arp("10.1.0.1") == guest.arp(async_network.ip)
    try:
        await other.impair(loss=1)
    except CannotError as error:
        assert "netem" in str(error)
    assert make_request("hello", net=[port, other]).net == (port.port, other.port)
