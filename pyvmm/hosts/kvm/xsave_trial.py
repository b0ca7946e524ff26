# SPDX-License-Identifier: MIT
"""A trial that shows if KVM learns of a guest's XSETBV.

An emulated SVM need not intercept XSETBV; QEMU's TCG does since "target/i386: check intercept for
XSETBV" (2023). Without the intercept a guest sets the processor's XCR0 past KVM, which goes on
answering CPUID leaf 0xD for XCR0 = 1 and puts 1 back at each exit: Linux finds a size of the XSAVE
area that is none of its own reckoning, and loses its AVX registers. The trial asks for behaviour,
not for a version.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pyvmm.errors import SystemCallError
from pyvmm.hosts.interface import Memslot
from pyvmm.hosts.registers import Regs
from pyvmm.rules.abi import PAGE_SIZE

if TYPE_CHECKING:
    from pyvmm.hosts.kvm.mapping import Mapping
    from pyvmm.hosts.kvm.vm import Vm

_XSETBV_HLT = b"\x0f\x01\xd1\xf4"
_X87, _SSE = 1 << 0, 1 << 1
_WANTED = _X87 | _SSE
_CR4_OSXSAVE = 1 << 18
_OF_THE_TRIAL = 0


def try_xsetbv(vm: Vm, ram: Mapping) -> bool:
    """Run a guest of two instructions that sets XCR0 to 3, and ask KVM for XCR0.

    In a new VM, with a page of RAM. False, too, where a vCPU cannot have XSAVE at all, or the guest
    stumbles. Raises `KvmError` where there can be no such guest.
    """
    with ram.view() as view:
        view[: len(_XSETBV_HLT)] = _XSETBV_HLT
    vm.set_memslot(Memslot(_OF_THE_TRIAL, PAGE_SIZE, PAGE_SIZE, ram.hva))
    with vm.create_vcpu(0) as vcpu:
        vcpu.use_host_cpuid()
        sregs = vcpu.get_sregs()
        cs = replace(sregs.cs, base=0, selector=0)
        try:
            vcpu.set_sregs(replace(sregs, cs=cs, cr4=sregs.cr4 | _CR4_OSXSAVE))
            vcpu.set_regs(Regs(rip=PAGE_SIZE, rax=_WANTED))
            vcpu.run()
            return vcpu.get_xcrs().get(0) == _WANTED
        except SystemCallError:
            return False
