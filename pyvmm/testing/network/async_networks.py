# SPDX-License-Identifier: MIT
"""Networks in trio tests: the same as in others, and what waits for the kernel is awaited."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio

from pyvmm.testing.failures import is_told
from pyvmm.testing.network.networks import Network
from pyvmm.testing.network.ports import Port
from pyvmm.testing.network.recordings import Capture

__tracebackhide__ = is_told


class AsyncPort:
    """A `Port`, for ``async_boot(..., net=port)``; made by `AsyncNetwork.port`."""

    def __init__(self, port: Port) -> None:
        self.port = port

    @property
    def name(self) -> str:
        """Name of its tap."""
        return self.port.name

    @property
    def mac(self) -> bytes:
        """Address of the guest's card, 6 bytes."""
        return self.port.mac

    @property
    def mtu(self) -> int:
        """Bytes of the longest packet."""
        return self.port.mtu

    @property
    def ip(self) -> str:
        """Address that is set aside for the guest."""
        return self.port.ip

    @property
    def address(self) -> str:
        """The same with the length of the network's prefix."""
        return self.port.address

    async def down(self) -> None:
        """Switch the port off."""
        await trio.to_thread.run_sync(self.port.down)

    async def up(self) -> None:
        """Switch it on again."""
        await trio.to_thread.run_sync(self.port.up)

    async def impair(
        self,
        *,
        loss: float = 0,
        duplicate: float = 0,
        corrupt: float = 0,
        delay: float = 0,
        jitter: float = 0,
    ) -> None:
        """Have netem do this to all frames that go to the guest, as `Port.impair`."""
        impair = partial(
            self.port.impair,
            loss=loss, duplicate=duplicate, corrupt=corrupt, delay=delay, jitter=jitter,
        )  # fmt: skip
        await trio.to_thread.run_sync(impair)


class AsyncNetwork:
    """A `Network` in a trio test; whoever made that closes it. Raises what that raises."""

    def __init__(self, network: Network) -> None:
        self._network = network

    @property
    def ip(self) -> str:
        """Address of the network's host."""
        return self._network.ip

    @property
    def address(self) -> str:
        """The same with the length of the prefix."""
        return self._network.address

    async def port(
        self,
        *,
        mac: str | None = None,
        ip: str | None = None,
        mtu: int | None = None,
        queues: int = 1,
    ) -> AsyncPort:
        """Another port, for one guest, as `Network.port`."""
        make = partial(self._network.port, mac=mac, ip=ip, mtu=mtu, queues=queues)
        return AsyncPort(await trio.to_thread.run_sync(make))

    async def add_address(self, address: str) -> None:
        """Give the network's host another address (CIDR, of any subnet)."""
        await trio.to_thread.run_sync(self._network.add_address, address)

    async def socket(
        self,
        family: int = socket.AF_INET,
        kind: int = socket.SOCK_STREAM,
        protocol: int = 0,
    ) -> trio.socket.SocketType:
        """A trio socket of the network's host; the caller closes it."""
        made = await trio.to_thread.run_sync(self._network.socket, family, kind, protocol)
        return trio.socket.from_stdlib_socket(made)

    @asynccontextmanager
    async def capture(self, path: str | os.PathLike[str]) -> AsyncIterator[None]:
        """Write all frames of the block to a file, as pcap, as `Network.capture`."""
        capture: Capture = await trio.to_thread.run_sync(self._network.capture, path)
        try:
            yield
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(capture.stop)
