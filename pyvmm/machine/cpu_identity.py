# SPDX-License-Identifier: MIT
"""Identities of a machine's vCPUs: their APIC IDs, and what CPUID tells the guest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm.hosts.guest_cpuid import GuestCpu, guest_table

if TYPE_CHECKING:
    from pyvmm.hosts.interface import System, Vcpu
    from pyvmm.hosts.topology import Topology


class CpuIdentity:
    """Tables of the vCPUs of one machine, made of what `system` offers and of `topology`.

    Methods are called from the vCPUs' threads.
    """

    def __init__(self, system: System, topology: Topology) -> None:
        """Raises `SystemCallError`."""
        self._host = system.guest_cpuid()
        self._guest = GuestCpu(topology, xsave=system.keeps_xsave())

    def apic_id(self, cpu: int) -> int:
        """The APIC ID of vCPU number `cpu`."""
        return self._guest.topology.apic_id(cpu)

    def give(self, cpu: int, vcpu: Vcpu) -> None:
        """Give vCPU number `cpu` its table, before it runs. Raises `SystemCallError`."""
        vcpu.follow_host_tsc()
        vcpu.set_cpuid(guest_table(self._host, self._guest, cpu))
