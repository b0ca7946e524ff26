# SPDX-License-Identifier: MIT
"""Standing leases: guest memory that is worked on all the time, until somebody wants any of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from pyvmm.machine.leases import Leases
from pyvmm.machine.ownership import StackOwner

HostRange = tuple[int, int, int]
"""GPA, length in bytes and HVA of a region of guest memory, page-aligned."""


class StandingLease(StackOwner):
    """All memory that the guest can write to, leased to who gives it back as soon as asked to.

    `regions` are where it is in this process, ascending. `ask` is called from any thread, perhaps
    more than once, by whoever is about to convert, reset, save or remove memory, and waits for no
    longer than `LEASE_PATIENCE`. Raises `LeaseRefusedError` as `Leases.lease`: private memory is
    refused.
    """

    def __init__(self, leases: Leases, ask: Callable[[], None], holder: str) -> None:
        self.regions: tuple[HostRange, ...] = leases.writable_regions()
        with ExitStack() as stack:
            # First: whoever wants memory between the two has the lease refused.
            leases.askers[self] = ask
            stack.callback(leases.askers.pop, self, None)
            ranges = [(gpa, size) for gpa, size, _ in self.regions]
            stack.enter_context(leases.lease(ranges, writable=True, holder=holder))
            self.own(stack)
