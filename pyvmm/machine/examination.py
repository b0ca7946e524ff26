# SPDX-License-Identifier: MIT
"""Examining a host: what it has, what it lacks, what follows. Found by asking, and by trying.

Nothing here looks at a version. A finding is an answer of the kernel's, or of an attempt; what
follows for a command is derived from findings only.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from pyvmm.errors import PyvmmError
from pyvmm.hosts.capabilities import Capabilities, GuestMemfdFlag, MemoryAttribute, VmType
from pyvmm.hosts.interface import System, Vcpu
from pyvmm.machine import host_memory
from pyvmm.machine.findings import Consequence, Examination, Finding, Verdict
from pyvmm.machine.kernel_matrix import KernelMatrix, try_matrix
from pyvmm.machine.network.examination import examine_networks
from pyvmm.memory.backing import RamBacking, choose_backing
from pyvmm.memory.layout import MIB
from pyvmm.rules.abi import KVM_HC_MAP_GPA_RANGE

_ENDS_WITH_0 = bytes.fromhex("b000 e6f4 f4")
"""mov al, 0; out 0xf4, al; hlt"""
_COUNTS = bytes.fromhex("6631db 6643 ebfc")
"""xor ebx, ebx; again: inc ebx; jmp again - all in real mode"""
_INSTRUCTIONS_A_COUNT = 2
_COUNTING = 0.02
"""Seconds."""
_SLOW = 50_000_000
"""Guest instructions a second below which supervisor code is surely emulated."""


def examine() -> Examination:
    """Ask this machine. Takes some tens of milliseconds; changes nothing; never raises."""
    uname = platform.uname()
    host = f"{uname.system} {uname.release}, {uname.machine}, {len(os.sched_getaffinity(0))} CPUs"
    findings: list[Finding] = []
    capabilities: Capabilities | None = None
    matrix: KernelMatrix | None = None
    runs = False
    try:
        from pyvmm.hosts.kvm.system import System as KvmSystem
        from pyvmm.machine.newer_interfaces import examine_newer

        with KvmSystem() as system:
            capabilities = system.capabilities()
            breakpoints = _breakpoints(system)
            matrix = try_matrix(system)
            newer = tuple(examine_newer(system, matrix))
        findings.append(
            Finding("/dev/kvm", Verdict.HAS, f"API {capabilities.api_version}", "guests run on KVM")
        )
        trial = _try_a_guest()
        runs = trial.verdict is not Verdict.LACKS
        findings.append(trial)
        findings.extend(_kvm_findings(capabilities))
        findings.append(breakpoints)
        findings.extend(newer)
    except PyvmmError as error:
        findings.append(Finding("/dev/kvm", Verdict.LACKS, str(error), "no guest can run on KVM"))
    findings.extend(_machine_findings())
    networks, their_consequences = examine_networks()
    return Examination(
        host,
        (*findings, *networks),
        (*_consequences(capabilities, runs), *their_consequences),
        matrix,
    )


def _breakpoints(system: System) -> Finding:
    """Stop a guest at a breakpoint: a KVM that is itself emulated may take one and run past it."""
    what = "breakpoints"
    without = "vm.breakpoint in boot tests wants another host, the model for one"
    try:
        most = system.most_breakpoints()
    except PyvmmError as error:
        return Finding(what, Verdict.LACKS, str(error), without)
    if not most:
        return Finding(what, Verdict.LACKS, "a guest ran past one", without)
    return Finding(what, Verdict.HAS, f"{most} for each vCPU", "boot tests can stop guests at them")


def _try_a_guest() -> Finding:
    """Run a guest that ends, and one that counts: the proof that KVM works, and how fast it is."""
    from pyvmm.machine.blocking import run
    from pyvmm.machine.config import MachineConfig

    what = "runs a guest"
    try:
        ending = run(MachineConfig(_ENDS_WITH_0, memory=2 * MIB, timeout=5)).result.ending
        if ending.exit_code != 0:
            return Finding(
                what, Verdict.LACKS, ending.detail, "KVM is there but does not run guests"
            )
        rate = _guest_speed()
    except PyvmmError as error:
        return Finding(what, Verdict.LACKS, str(error), "KVM is there but does not run guests")
    answer = f"yes; supervisor code at {rate / 1e6:.1f} million instructions/s"
    if rate < _SLOW:
        return Finding(
            what,
            Verdict.PARTLY,
            answer,
            "supervisor code is emulated: slow, general instructions only; user code may be fast",
            measured=True,
        )
    meaning = "supervisor code is not emulated by KVM"
    return Finding(what, Verdict.HAS, answer, meaning, measured=True)


def _guest_speed() -> float:
    """Instructions a second of a guest that counts in a register, over a moment of its run."""
    from pyvmm.machine.blocking import open_blocking_machine
    from pyvmm.machine.config import MachineConfig

    def count(vcpu: Vcpu) -> tuple[float, int]:
        return time.perf_counter(), vcpu.get_regs().rbx & 0xFFFF_FFFF

    with open_blocking_machine(MachineConfig(_COUNTS, memory=2 * MIB)) as machine:
        started, first = machine.vcpus[0].call(count)
        time.sleep(_COUNTING)
        ended, last = machine.vcpus[0].call(count)
    return _INSTRUCTIONS_A_COUNT * ((last - first) & 0xFFFF_FFFF) / (ended - started)


def _kvm_findings(has: Capabilities) -> Iterator[Finding]:
    def found(what: str, there: object, answer: str, yes: str, no: str) -> Finding:
        return Finding(what, Verdict.HAS if there else Verdict.LACKS, answer, yes if there else no)

    def yes_no(there: object) -> str:
        return "yes" if there else "no"

    choice = choose_backing(has)
    names = ", ".join(flag.name or "" for flag in has.guest_memfd_flags) or "no flags"
    yield found(
        "guest_memfd", has.guest_memfd, f"{yes_no(has.guest_memfd)}, {names}",
        choice.reason, choice.reason,
    )  # fmt: skip
    yield found(
        "VM type SW_PROTECTED", VmType.SW_PROTECTED in has.vm_types,
        ", ".join(sorted(kind.name for kind in has.vm_types)),
        "private memory can be set up", "no VM with private memory",
    )  # fmt: skip
    private = MemoryAttribute.PRIVATE in has.memory_attributes
    yield found(
        "memory attributes", private, f"{int(has.memory_attributes):#x}",
        "pages can be converted", "no page can be converted between private and shared",
    )  # fmt: skip
    yield found(
        "conversion in place", MemoryAttribute.PRIVATE in has.file_attributes,
        f"{int(has.file_attributes):#x}", "a guest_memfd keeps which of its pages are private",
        "no page is converted in place: the model does, and the lab's kernel of that name",
    )  # fmt: skip
    yield found(
        "MEMORY_FAULT exits", has.memory_fault_info, yes_no(has.memory_fault_info),
        "a wrong-sided access is told with its address", "such accesses end in a bare EFAULT",
    )  # fmt: skip
    converts = has.hypercalls >> KVM_HC_MAP_GPA_RANGE & 1
    yield found(
        "hypercall exits", converts, f"mask {has.hypercalls:#x}",
        "the guest can ask for conversions", "the guest cannot ask for conversions",
    )  # fmt: skip
    yield found(
        "pre-fault", has.pre_fault, yes_no(has.pre_fault),
        "memory can be mapped ahead", "memory is mapped when it is touched",
    )  # fmt: skip
    yield found(
        "interrupt controllers", has.irqchip and has.pit2, yes_no(has.irqchip and has.pit2),
        "guests can take interrupts and have several vCPUs", "only guests without interrupts run",
    )  # fmt: skip
    for what, there, use in (
        ("irqfd, ioeventfd", has.irqfd and has.ioeventfd, "devices outside the vCPU thread"),
        ("coalesced port I/O", has.coalesced_pio, "fewer exits for port writes"),
        ("sync regs", has.sync_regs, "registers without a system call"),
        ("binary statistics", has.binary_stats, "KVM's own counters"),
        ("dirty ring", has.dirty_log_ring, "dirty pages without a bitmap"),
    ):
        yield found(what, there, yes_no(there), use, f"without: {use}")
    yield Finding(
        "limits", Verdict.HAS,
        f"{has.max_vcpus} vCPUs, {has.nr_memslots} memslots, "
        f"{has.physical_address_bits} physical address bits",
        "the most that one guest can have",
    )  # fmt: skip


def _machine_findings() -> Iterator[Finding]:
    available = host_memory.available()
    yield Finding(
        "memory",
        Verdict.HAS,
        f"{available // MIB} MiB available",
        "the most that --memory takes now",
        measured=True,
    )
    debugfs = Path("/sys/kernel/debug/kvm").is_dir()
    yield Finding(
        "KVM's debugfs", Verdict.HAS if debugfs else Verdict.LACKS, "mounted" if debugfs else "no",
        "which VMs live can be seen" if debugfs
        else "mount -t debugfs none /sys/kernel/debug shows which VMs live",
    )  # fmt: skip
    model = _has_model()
    yield Finding(
        "Unicorn", Verdict.HAS if model else Verdict.LACKS, "yes" if model else "no",
        "guests run on the model, without KVM" if model
        else "install it (pip install unicorn) for the model",
    )  # fmt: skip
    qemu = shutil.which("qemu-system-x86_64")
    yield Finding(
        "QEMU", Verdict.HAS if qemu else Verdict.LACKS, qemu or "no qemu-system-x86_64",
        "pyvmm compare and benchmarks use it" if qemu else "Debian: apt install qemu-system-x86",
    )  # fmt: skip


def _has_model() -> bool:
    from pyvmm.hosts.model import unicorn_library

    return unicorn_library.is_installed()


def _consequences(has: Capabilities | None, runs: bool) -> Iterator[Consequence]:
    model = _has_model()
    if has is None or not runs:
        yield Consequence(
            "pyvmm run", Verdict.PARTLY if model else Verdict.LACKS,
            "on the model: KVM's memory rules in Python, an emulated processor" if model
            else "it needs a working /dev/kvm, or Unicorn for the model",
        )  # fmt: skip
    else:
        choice = choose_backing(has)
        verdict = Verdict.HAS if choice.kind is RamBacking.GUEST_MEMFD else Verdict.PARTLY
        yield Consequence("pyvmm run", verdict, f"RAM comes from {choice.reason}")
    interrupts = has is not None and runs and has.irqchip and has.pit2
    yield Consequence(
        "guests with interrupts",
        Verdict.HAS if interrupts else Verdict.PARTLY if model else Verdict.LACKS,
        "KVM makes the controllers" if interrupts
        else "on the model" if model else "KVM offers no controllers",
    )  # fmt: skip
    private = has is not None and VmType.SW_PROTECTED in has.vm_types
    by_vm = private and has is not None and MemoryAttribute.PRIVATE in has.memory_attributes
    by_file = private and has is not None and MemoryAttribute.PRIVATE in has.file_attributes
    yield Consequence(
        "private memory",
        Verdict.HAS if by_vm or by_file else Verdict.PARTLY if model else Verdict.LACKS,
        "the kernel has the VM type and the attribute" if by_vm
        else "the kernel has the VM type, and its files the attribute: in place" if by_file
        else f"{'on the model, or ' if model else ''}with --host lab: this kernel has no "
        "CONFIG_KVM_SW_PROTECTED_VM",
    )  # fmt: skip
    shared = has is not None and GuestMemfdFlag.INIT_SHARED in has.guest_memfd_flags
    yield Consequence(
        "guest_memfd that the host can map", Verdict.HAS if shared else Verdict.LACKS,
        "KVM has the flags MMAP and INIT_SHARED" if shared else "RAM is an anonymous memfd instead",
    )  # fmt: skip
    qemu = shutil.which("qemu-system-x86_64") is not None
    yield Consequence(
        "pyvmm compare", Verdict.HAS if qemu and (runs or model) else Verdict.LACKS,
        "it asks QEMU itself which accelerators work here" if qemu
        else "it needs a qemu-system-x86_64 (--qemu for one elsewhere)",
    )  # fmt: skip
    yield Consequence("pyvmm guests", Verdict.HAS, "it needs nothing")
