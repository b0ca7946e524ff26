# SPDX-License-Identifier: MIT
"""Conversion by hypercall: a guest asks for a page to be private, and the host makes it so.

    python examples/conversion_by_hypercall.py [kvm|model]

Needs VMs of the type KVM_X86_SW_PROTECTED_VM with attributes of their own: the lab, or the model.
"""

import sys

from pyvmm.experiment import guest, short_errors
from pyvmm.hosts.capabilities import MemoryAttribute, VmType
from pyvmm.hosts.exits import Hypercall
from pyvmm.hosts.interface import Memslot
from pyvmm.rules.abi import KVM_HC_MAP_GPA_RANGE, PAGE_SIZE

PAGE = 0x1000000  # GPA 16 MiB: a slot of its own, with a shared and a private side
PRIVATE = 1 << 4  # of the hypercall's third argument (Documentation/virt/kvm/x86/hypercalls.rst)
CODE = f"""
        movb    $'s', {PAGE}            # goes to the shared side
        mov     ${KVM_HC_MAP_GPA_RANGE}, %eax
        mov     ${PAGE}, %ebx
        mov     $1, %ecx
        mov     ${PRIVATE}, %edx
        vmmcall
        mov     {PAGE}, %al             # comes from the private side
        movb    $'p', {PAGE}
        hlt
"""

with (
    short_errors(),
    guest(CODE, host=(*sys.argv[1:], "auto")[0], vm_type=VmType.SW_PROTECTED) as one,
):
    one.vm.enable_hypercall_exits(1 << KVM_HC_MAP_GPA_RANGE)
    with (
        one.system.map_anonymous(PAGE_SIZE) as shared,
        one.vm.create_guest_memfd(PAGE_SIZE) as file,
    ):
        one.vm.set_memslot(Memslot(1, PAGE, PAGE_SIZE, shared.hva, guest_memfd=file))
        for reason in one.exits():
            print(reason)
            if isinstance(reason, Hypercall):
                gpa, pages, _ = reason.args[:3]
                one.vm.set_memory_attributes(gpa, pages * PAGE_SIZE, MemoryAttribute.PRIVATE)
                one.vcpu.answer_hypercall(0)
        print(f"the guest read {one.regs.rax & 0xFF} there, and wrote 'p'")
        print(f"the host still sees {shared.peek(0, 1)!r}")
        one.vm.set_memslot(Memslot(1, PAGE, 0, 0))
