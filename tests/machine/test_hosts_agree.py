# SPDX-License-Identifier: MIT
"""The same guest on KVM and on the model: the same console, the same end."""

from __future__ import annotations

import re

import pytest

from pyvmm import bundled_guests
from pyvmm.hosts.capabilities import VmType
from pyvmm.hosts.kvm.system import System
from pyvmm.machine.blocking import run
from pyvmm.machine.config import HostChoice, MachineConfig, PrivateConfig
from pyvmm.machine.ending import EndingKind
from pyvmm.memory.layout import MIB

from .guests import bundled

SHARED = {
    "acpi": b"",
    "balloon": b"",
    "block": b"",
    "net": b"",
    "ports": b"",
    "share": b"",
    "vsock": b"",
    "hello": b"some words",
    "hostile": b"",
    "echo": b"",
    "exit": b"7",
    "timer": b"ticks=5",
    "ring3": b"loops=100000",
    "memtest": b"",
    "fault": b"",
    "packed": b"",
    "panic": b"",
    "pci": b"",
    "triple": b"",
    "selftest": b"",
    "tests": b"",
    "failing": b"case=checks_go_on",
    "hypercall": b"",
    "inventory": b"",
    "convert": b"",
    "touch": b"",
    "punch": b"host=0",
    "smp": b"",
    "mailbox": b"",
    "secret": b"host=0",
}
"""Every guest that ends, with its command line; the last six say that they need private memory."""
PRIVATE = {
    "hello": b"", "exit": b"9", "timer": b"ticks=5", "ring3": b"loops=100000", "memtest": b"",
    "fault": b"", "panic": b"", "triple": b"", "convert": b"size=12288 offset=4096 rounds=1",
    "touch": b"step=64", "punch": b"host=0", "smp": b"rounds=2", "secret": b"host=0",
    "tests": b"",
}  # fmt: skip


def outcome(name: str, append: bytes, host: HostChoice, *, private: bool) -> tuple[object, ...]:
    """What the guest said and how it ended."""
    config = MachineConfig(
        bundled(name),
        memory=(3 if name == "memtest" else 8) * MIB,
        command_line=append,
        timeout=240,
        host=host,
        private=PrivateConfig(bundled_guests.firmware()) if private else None,
    )
    done = run(config, given=b"typed\n")
    result = done.result
    digest = result.memory.launch.digest if result.memory and result.memory.launch else None
    output = _CPUID.sub(b"", _RFLAGS.sub(_without_rf, done.output))
    return output, result.ending.kind, result.ending.status, digest


_CPUID = re.compile(rb"^cpuid .*\n", re.MULTILINE)
"""The processors are different ones."""
_RFLAGS = re.compile(rb"rflags=([0-9a-f]{8})")


def _without_rf(found: re.Match[bytes]) -> bytes:
    """RF is set in what a fault pushes (SDM volume 3B, 18.3.1.1); QEMU's TCG leaves it clear."""
    return b"rflags=%08x" % (int(found[1], 16) & ~(1 << 16))


def supervisor_vmmcall_works() -> bool:
    # A KVM without hardware virtualization below it executes it again and again.
    with System() as system:
        return VmType.SW_PROTECTED in system.capabilities().vm_types


@pytest.mark.kvm
@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
def test_kvm_and_the_model_agree(name: str) -> None:
    if name == "hypercall" and not supervisor_vmmcall_works():
        pytest.skip("this host's KVM never gets past a hypercall at CPL 0")
    on_kvm = outcome(name, SHARED[name], HostChoice.KVM, private=False)
    assert on_kvm[1] is not EndingKind.TIME_LIMIT
    assert outcome(name, SHARED[name], HostChoice.MODEL, private=False) == on_kvm


@pytest.mark.kvm
@pytest.mark.slow
@pytest.mark.parametrize("name", PRIVATE)
def test_they_agree_on_private_memory(name: str) -> None:
    if not supervisor_vmmcall_works():
        pytest.skip("this host's KVM has no private memory")
    on_kvm = outcome(name, PRIVATE[name], HostChoice.KVM, private=True)
    assert on_kvm[1] is not EndingKind.TIME_LIMIT
    assert outcome(name, PRIVATE[name], HostChoice.MODEL, private=True) == on_kvm


@pytest.mark.slow
@pytest.mark.parametrize("name", PRIVATE)
def test_the_model_runs_private_guests_anywhere(name: str) -> None:
    _output, kind, status, digest = outcome(name, PRIVATE[name], HostChoice.MODEL, private=True)
    endings = {
        "exit": (EndingKind.EXITED, 9),
        "fault": (EndingKind.PANICKED, None),
        "panic": (EndingKind.PANICKED, None),
        "triple": (EndingKind.TRIPLE_FAULT, None),
    }
    assert (kind, status) == endings.get(name, (EndingKind.EXITED, 0))
    assert digest is not None


def test_every_bundled_guest_is_compared() -> None:
    names = {guest.name for guest in bundled_guests.all_guests()}
    assert names - set(SHARED) == {"guest", "hang"}, "hello again, and the one that never ends"
