# SPDX-License-Identifier: MIT
"""Machines with a network card that are saved, and go on elsewhere, on another network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest
import trio

from pyvmm.errors import UsageError
from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.machine.hardware import Hardware, NetCard, TapNet, Transport
from pyvmm.machine.running import open_machine
from pyvmm.memory.layout import MIB
from pyvmm.net.namespaces import new_namespace
from tests.machine.guests import bundled
from tests.machine.in_trio import HANG, in_trio
from tests.net.station import APPEND, READY, STATION, Station, echoes_a_stream, echoes_datagrams

pytestmark = pytest.mark.net
KVM = pytest.param(HostChoice.KVM, Transport.PCI, marks=pytest.mark.kvm, id="kvm")


@pytest.fixture
def stations() -> Iterator[tuple[Station, Station]]:
    with ExitStack() as stack:
        namespaces = []
        for _ in range(2):
            namespaces.append(new_namespace())
            stack.callback(os.close, namespaces[-1])
        first, second = map(Station, namespaces)
        yield first, second


def config(
    station: Station, host: HostChoice, transport: Transport, card: NetCard
) -> MachineConfig:
    wire = TapNet(netns=station.path, address=f"{STATION}/24")
    return MachineConfig(
        bundled("net"),
        memory=2 * MIB,
        command_line=f"{APPEND} serve=4".encode(),
        host=host,
        hardware=Hardware(transport=transport, cards=(replace(card, wire=wire),)),
        timeout=HANG,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("host", "transport"), [KVM, (HostChoice.MODEL, Transport.MMIO)])
@in_trio
async def test_a_guest_goes_on_upon_another_network(
    stations: tuple[Station, Station], host: HostChoice, transport: Transport
) -> None:
    first, second = stations
    card = NetCard(TapNet())
    async with open_machine(config(first, host, transport, card)) as machine:
        assert await machine.console.wait_for(READY)
        await trio.to_thread.run_sync(echoes_a_stream, first, 5000)
        saved = await machine.control.save()
        await trio.to_thread.run_sync(echoes_datagrams, first)
    there = config(second, host, transport, card)
    async with open_machine(there, saved=saved) as machine:
        await trio.to_thread.run_sync(echoes_a_stream, second, 5000)
        await trio.to_thread.run_sync(echoes_datagrams, second)
        await machine.control.restore(saved)
        await trio.to_thread.run_sync(echoes_a_stream, second, 5000)
    for other in (replace(card, mtu=1400), replace(card, mac=b"\2other")):
        config_ = config(second, host, transport, other)
        with pytest.raises(UsageError, match="restore a machine saved with hardware"):
            async with open_machine(config_, saved=saved):
                pass
