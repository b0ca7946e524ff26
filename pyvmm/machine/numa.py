# SPDX-License-Identifier: MIT
"""NUMA nodes of a guest: checks of them, and where their memory and vCPUs are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from pyvmm.acpi.machine import AcpiNode
from pyvmm.errors import UsageError
from pyvmm.hosts.topology import MAX_CPUS, Topology
from pyvmm.machine.hardware import Hardware, MemoryPolicy, NumaNode
from pyvmm.memory.layout import GpaRange
from pyvmm.rules.abi import PAGE_SIZE

if TYPE_CHECKING:
    from pyvmm.memory.address_map import AddressMap

MAX_NODES = 128
"""As QEMU's; distances take the square of it in bytes, of the 128 KiB that tables have."""
MAX_HOST_NODE = 1023
"""The largest number that Linux can be built for on x86 (CONFIG_NODES_SHIFT of 10)."""


def check_nodes(hardware: Hardware, memory: int, cpus: int, *, is_private: bool) -> None:
    """Raise `UsageError` for nodes that a machine of `memory` bytes and `cpus` cannot have."""
    nodes = hardware.nodes
    attempt = f"give a machine {len(nodes)} NUMA {'node' if len(nodes) == 1 else 'nodes'}"
    if len(nodes) > MAX_NODES:
        raise UsageError(attempt, f"{MAX_NODES} are the most", "give fewer")
    if is_private:
        raise UsageError(
            attempt,
            "its memory is private: there are no ACPI tables to tell of them",
            "leave --numa or --private out",
        )
    if hardware.acpi is False:
        raise UsageError(attempt, "only ACPI tables tell of them", "leave --acpi off out")
    for number, node in enumerate(nodes):
        _check_node(f"give NUMA node {number} its memory", node)
    total = sum(node.memory for node in nodes)
    if total != memory:
        raise UsageError(
            attempt,
            f"their sizes add up to {_size(total)}, and its memory is {_size(memory)}",
            f"give --memory {_size(total)}, or other sizes",
        )
    _check_cpus(attempt, nodes, cpus)
    if hardware.topology is not None:
        _check_packages(attempt, nodes, hardware.topology)


def _size(size: int) -> str:
    """The size as an option takes it."""
    for unit, letter in ((1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")):
        if size and size % unit == 0:
            return f"{size // unit}{letter}"
    return str(size)


def _check_node(attempt: str, node: NumaNode) -> None:
    if node.memory <= 0 or node.memory % PAGE_SIZE:
        raise UsageError(
            attempt, f"{node.memory} bytes are not one page of {PAGE_SIZE} or more", "give another"
        )
    if (node.policy is None) != (not node.host_nodes):
        raise UsageError(
            attempt,
            "a policy is for nodes of the host's, and they are chosen by one",
            "give policy= and host-nodes=, or neither",
        )
    if node.policy is MemoryPolicy.PREFERRED and len(node.host_nodes) > 1:
        raise UsageError(attempt, "one node of the host's can be preferred", "give one, or bind")
    if node.host_nodes and not 0 <= min(node.host_nodes) <= max(node.host_nodes) <= MAX_HOST_NODE:
        raise UsageError(
            attempt,
            f"nodes of the host's have numbers from 0 to {MAX_HOST_NODE}",
            "/sys/devices/system/node has those that there are",
        )


def _check_cpus(attempt: str, nodes: tuple[NumaNode, ...], cpus: int) -> None:
    count = Counter(cpu for node in nodes for cpu in node.cpus)
    beyond = next((cpu for cpu in sorted(count) if not 0 <= cpu < cpus), None)
    if beyond is not None:
        raise UsageError(
            attempt,
            f"it has no vCPU {beyond}, the last is {cpus - 1}",
            "give --cpus, or other cpus=",
        )
    for cpu in range(cpus):
        if count[cpu] != 1:
            why = "in two of them" if count[cpu] else "in none of them"
            raise UsageError(attempt, f"vCPU {cpu} is {why}", "give each vCPU one node by cpus=")


def _check_packages(attempt: str, nodes: tuple[NumaNode, ...], topology: Topology) -> None:
    """Refuse a socket in two nodes: its processors share a cache, and Linux warns of such."""
    split = _split(nodes, topology.threads_per_package)
    if split is not None:
        raise UsageError(
            attempt,
            f"vCPUs {split} and {split + 1} are in one socket, and not in one node",
            "give other sockets=, or leave the topology out",
        )


def _split(nodes: tuple[NumaNode, ...], per_package: int) -> int | None:
    """The first vCPU that is in one socket with the next one, and in another node."""
    where = {cpu: number for number, node in enumerate(nodes) for cpu in node.cpus}
    for one, other in pairwise(sorted(where)):
        if one // per_package == other // per_package and where[one] != where[other]:
            return one
    return None


def topology_within(nodes: tuple[NumaNode, ...], cpus: int) -> Topology:
    """The topology of the largest sockets that lie within a node each, one thread to a core."""
    for cores in range(cpus, 1, -1):
        if cpus % cores == 0 and _split(nodes, cores) is None:
            last = (cpus // cores - 1) << (cores - 1).bit_length() | cores - 1
            if last < MAX_CPUS:
                return Topology(cpus, sockets=cpus // cores)
    return Topology(cpus, sockets=cpus)


def file_ranges(nodes: tuple[NumaNode, ...]) -> Iterator[tuple[NumaNode, int, int]]:
    """Each node with the start and end of its memory in the file of RAM, in bytes."""
    start = 0
    for node in nodes:
        yield node, start, start + node.memory
        start += node.memory


def told_nodes(
    nodes: tuple[NumaNode, ...], address_map: AddressMap, apic_ids: tuple[int, ...]
) -> tuple[AcpiNode, ...]:
    """The nodes as tables tell of them: memory in GPAs, around the hole below 4 GiB."""
    return tuple(
        AcpiNode(
            tuple(apic_ids[cpu] for cpu in sorted(node.cpus)),
            tuple(_guest_ranges(address_map, start, end)),
        )
        for node, start, end in file_ranges(nodes)
    )


def _guest_ranges(address_map: AddressMap, start: int, end: int) -> Iterator[GpaRange]:
    """The GPAs of file offsets [start, end)."""
    for slot in address_map.ram:
        first = max(start, slot.file_offset)
        last = min(end, slot.file_offset + slot.range.size)
        if first < last:
            to_gpa = slot.range.start - slot.file_offset
            yield GpaRange(first + to_gpa, last + to_gpa)
