# SPDX-License-Identifier: MIT
"""The guest `net` in a machine, with Linux' own network stack as its peer."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest
import trio

from pyvmm.hosts.kvm.net_engine import KvmNetEngine
from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.machine.hardware import Hardware, NetCard, TapNet, Transport, VhostChoice
from pyvmm.machine.running import open_machine
from pyvmm.memory.layout import MIB
from pyvmm.net.namespaces import new_namespace
from tests.machine.guests import bundled
from tests.machine.in_trio import HANG, in_trio
from tests.net.station import APPEND, READY, STATION, Station, does_it_all

pytestmark = [pytest.mark.net, pytest.mark.slow]


@pytest.fixture
def station() -> Iterator[Station]:
    namespace = new_namespace()
    yield Station(namespace)
    os.close(namespace)


def config(
    station: Station,
    append: str,
    host: HostChoice,
    transport: Transport = Transport.PCI,
    vhost: VhostChoice = VhostChoice.AUTO,
) -> MachineConfig:
    wire = TapNet(netns=station.path, address=f"{STATION}/24", vhost=vhost)
    return MachineConfig(
        bundled("net"),
        memory=2 * MIB,
        command_line=(APPEND + append).encode(),
        host=host,
        hardware=Hardware(transport=transport, cards=(NetCard(wire),)),
        timeout=HANG,
    )


@pytest.mark.parametrize(
    ("host", "transport", "append", "size"),
    [
        pytest.param(HostChoice.KVM, Transport.PCI, "msix=1", 50_000, marks=pytest.mark.kvm),
        pytest.param(HostChoice.KVM, Transport.MMIO, "offload=0", 20_000, marks=pytest.mark.kvm),
        (HostChoice.MODEL, Transport.PCI, "merge=0 events=0", 50_000),
        (HostChoice.MODEL, Transport.MMIO, "buffers=8", 50_000),
    ],
)
@in_trio
async def test_it_is_a_host_on_the_network(
    station: Station, host: HostChoice, transport: Transport, append: str, size: int
) -> None:
    append = f"{append} ping={STATION} serve=1"
    async with open_machine(config(station, append, host, transport)) as machine:
        assert await machine.console.wait_for(READY)
        assert await machine.console.wait_for(b"answered: 3\n")
        await trio.to_thread.run_sync(does_it_all, station, size)
        assert await machine.console.wait_for(b" dropped\n")
        *_, counted = machine.console.output.splitlines()
        assert re.fullmatch(rb"frames: \d+ received, \d+ sent, 0 dropped", counted)
        assert (await machine.control.wait()).ending.status == 0


@pytest.mark.kvm
@pytest.mark.parametrize("transport", Transport)
@in_trio
async def test_on_kvm_no_frame_of_a_tap_s_needs_python(
    station: Station, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = 0

    class Counted(KvmNetEngine):
        def close(self) -> None:
            nonlocal moved
            if self._queue:
                moved += self.counts.requests
            super().close()

    monkeypatch.setattr("pyvmm.hosts.kvm.net_engine.KvmNetEngine", Counted)
    made = config(station, f"ping={STATION} count=9", HostChoice.KVM, transport, VhostChoice.OFF)
    async with open_machine(made) as machine:
        assert await machine.console.wait_for(b" dropped\n")
        *_, counted = machine.console.output.splitlines()
        received, sent, dropped = (int(number) for number in re.findall(rb"\d+", counted))
        assert min(received, sent) >= 9
        assert dropped == 0
    assert moved >= received + sent
