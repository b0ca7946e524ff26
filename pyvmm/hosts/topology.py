# SPDX-License-Identifier: MIT
"""Topology of a guest's processors, and the APIC IDs that follow from it."""

from __future__ import annotations

from dataclasses import dataclass

from pyvmm.errors import UsageError

MAX_CPUS = 255
"""The most vCPUs; the ID 255 is everybody's while IDs have 8 bits."""


@dataclass(frozen=True, slots=True)
class Topology:
    """`cpus` vCPUs in `sockets` packages of `cores` cores of `threads` threads.

    `cores` of 0: as many as are left. APIC IDs have a field of whole bits for each level, so they
    have gaps where a number is no power of two. Raises `UsageError` where they do not multiply to
    `cpus`, and for an ID that is too large.
    """

    cpus: int
    sockets: int = 1
    cores: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        attempt = f"make a machine with {self.cpus} vCPUs"
        if not 1 <= self.cpus <= MAX_CPUS:
            raise UsageError(
                attempt,
                f"a machine has at least one and at most {MAX_CPUS}",
                f"give a number from 1 to {MAX_CPUS}",
            )
        if min(self.sockets, self.threads) < 1 or self.cores < 0:
            raise UsageError(attempt, f"{self._said} cannot be", "give numbers from 1 on")
        packages = self.sockets * self.threads
        if not self.cores and self.cpus % packages:
            raise UsageError(
                attempt,
                f"they do not divide into sockets={self.sockets} with threads={self.threads}",
                "give numbers whose product is that of the vCPUs",
            )
        if not self.cores:
            object.__setattr__(self, "cores", self.cpus // packages)
        if self.cores * packages != self.cpus:
            raise UsageError(
                attempt,
                f"{self._said} make {self.cores * packages}",
                "give numbers whose product is that of the vCPUs",
            )
        if self.apic_id(self.cpus - 1) >= MAX_CPUS:
            raise UsageError(
                attempt,
                f"with {self._said} the last one has the APIC ID {self.apic_id(self.cpus - 1)}, "
                f"and {MAX_CPUS - 1} is the largest",
                "give powers of two, or fewer sockets",
            )

    @property
    def _said(self) -> str:
        return f"sockets={self.sockets}, cores={self.cores}, threads={self.threads}"

    @property
    def thread_bits(self) -> int:
        """Bits of an APIC ID that tell threads of a core apart."""
        return (self.threads - 1).bit_length()

    @property
    def package_bits(self) -> int:
        """Bits of an APIC ID that tell threads of a package apart."""
        return (self.cores - 1).bit_length() + self.thread_bits

    @property
    def threads_per_package(self) -> int:
        """Number of vCPUs in a package."""
        return self.cores * self.threads

    def apic_id(self, cpu: int) -> int:
        """The APIC ID of vCPU number `cpu`."""
        core, thread = divmod(cpu, self.threads)
        package, core = divmod(core, self.cores)
        return package << self.package_bits | core << self.thread_bits | thread

    @property
    def apic_ids(self) -> tuple[int, ...]:
        """The APIC IDs of all vCPUs, ascending."""
        return tuple(self.apic_id(cpu) for cpu in range(self.cpus))
