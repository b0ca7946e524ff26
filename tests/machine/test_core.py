# SPDX-License-Identifier: MIT
"""Which mappings of guest memory a core of this process would have (smaps, VmFlags)."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.machine.running import open_machine
from pyvmm.memory.layout import MIB

from .private_machines import config as private_config

MEMORY = 4 * MIB
_LOOPS = bytes.fromhex("ebfe")
_MAPPING = re.compile(
    r"^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ (\S+ [1-9]\d*) +"
    r"(?:/memfd:pyvmm|\S*\[(?:kvm-gmem|guest_memfd)\]).*\n"
    r"(?:\w+: .*\n)*?VmFlags: (.*)$",
    re.MULTILINE,
)


def in_core() -> tuple[Counter[str], Counter[str]]:
    """Bytes of guest memory mapped in this process, and those a core has, by device and inode."""
    mapped: Counter[str] = Counter()
    dumped: Counter[str] = Counter()
    for start, end, file, flags in _MAPPING.findall(Path("/proc/self/smaps").read_text()):
        mapped[file] += int(end, 16) - int(start, 16)
        if "dd" not in flags.split():
            dumped[file] += int(end, 16) - int(start, 16)
    return mapped, dumped


KVM, MODEL = HostChoice.KVM, HostChoice.MODEL


@pytest.fixture(
    params=[
        pytest.param((KVM, False), marks=pytest.mark.kvm, id="kvm"),
        pytest.param((KVM, True), marks=pytest.mark.kvm, id="private-kvm"),
        pytest.param((MODEL, False), id="model"),
        pytest.param((MODEL, True), id="private-model"),
    ]
)
def config(request: pytest.FixtureRequest) -> MachineConfig:
    host, private = request.param
    if not private:
        return MachineConfig(_LOOPS, memory=MEMORY, host=host)
    if host is KVM:
        request.getfixturevalue("private_host")
    return replace(private_config("hello", memory=MEMORY), host=host)


def look(config: MachineConfig) -> tuple[Counter[str], Counter[str], int]:
    """Bytes that the machine has mapped, those in the core, and the guest's shared memory."""
    before, dumped_before = in_core()

    async def main() -> tuple[Counter[str], Counter[str], int]:
        async with open_machine(config, paused=True) as machine:
            mapped, dumped = in_core()
            size = sum(sides.region.range.size for sides in machine.host.regions)
            return mapped - before, dumped - dumped_before, size

    return trio.run(main)


def test_no_mapping_of_guest_memory_is_in_a_core(config: MachineConfig) -> None:
    mapped, dumped, size = look(config)
    assert sum(mapped.values()) >= size
    assert dumped == Counter()


def test_all_of_it_is_once_where_asked_for(config: MachineConfig) -> None:
    # Memory that is mapped at two addresses, or that KVM would not let the host map, counts too.
    _mapped, dumped, size = look(replace(config, dump_guest_core=True))
    assert sum(dumped.values()) == size
