# SPDX-License-Identifier: MIT
"""What only the lab has, for guests at a network: private memory on KVM, and netem."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from typing import Any

import pytest

from pyvmm.errors import UsageError
from pyvmm.machine.leases import Lease, Leases
from pyvmm.testing import Boots, HostName, Network
from tests.testing.network.guests import ANSWERED, at, echo

pytestmark = [pytest.mark.slow, pytest.mark.net]


class Leased:
    """Ranges that devices of the host's have asked for, and of which pages these were."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ranges: set[tuple[int, int]] = set()
        lease = Leases.lease

        def note(leases: Leases, ranges: Sequence[tuple[int, int]], **named: Any) -> Lease:
            self.ranges.update((gpa, size) for gpa, size in ranges)
            return lease(leases, ranges, **named)

        monkeypatch.setattr(Leases, "lease", note)


@pytest.mark.pyvmm(hosts=["model", "lab"])
def test_of_a_private_guest_the_host_sees_what_is_shared(
    boot: Boots, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    leased = Leased(monkeypatch)
    port = network.port()
    told = at(port, f"ping={network.ip} count=100 serve=1", "secret=ONLY-THE-GUEST-KNOWS-THIS")
    with boot("net", net=port, append=told, private=True) as vm:
        vm.console.expect(ANSWERED)
        assert echo(network, port, b"SAID-ON-THE-NETWORK") == b"SAID-ON-THE-NETWORK"
        shared = [(gpa, gpa + size) for gpa, size, side in vm.page_states() if side == "shared"]
        assert sum(end - start for start, end in shared) <= 256 << 10
        # Rings and buffers, and nothing else, was looked at, and all of it is shared. On KVM an
        # engine in C does most of that, which has the same leases.
        assert leased.ranges or vm.host is HostName.LAB
        for gpa, size in leased.ranges:
            assert any(start <= gpa and gpa + size <= end for start, end in shared)
        assert vm.memory.search(b"SAID-ON-THE-NETWORK", skip_private=True)
        assert not vm.memory.search(b"ONLY-THE-GUEST-KNOWS-THIS", skip_private=True)
        private = next(gpa for gpa, _, side in vm.page_states() if side == "private")
        with pytest.raises(UsageError, match="is private, and the host does not see it"):
            vm.memory.read(private, 1)


@pytest.mark.pyvmm(hosts=["lab"])
def test_netem_loses_delays_and_repeats(boot: Boots, network: Network) -> None:
    """In the lab, whose kernel has it."""
    port = network.port()
    with boot("net", net=port, append=at(port)) as vm:
        vm.console.expect(f"at {port.ip}")
        echo(network, port)
        port.impair(loss=100)
        with network.socket(kind=socket.SOCK_DGRAM) as ours:
            ours.connect((port.ip, 7))
            ours.send(b"lost")
            port.impair(delay=0.3)
            began = time.monotonic()
            ours.send(b"late")
            ours.settimeout(60)
            assert ours.recv(9) == b"late"
            assert time.monotonic() - began >= 0.3
            port.impair(duplicate=100)
            ours.send(b"twice")
            assert [ours.recv(9), ours.recv(9)] == [b"twice", b"twice"]
            port.impair()
            ours.send(b"once")
            ours.send(b"end")
            assert [ours.recv(9), ours.recv(9)] == [b"once", b"end"]
