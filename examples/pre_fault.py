# SPDX-License-Identifier: MIT
"""Pre-fault: a vCPU maps memory before its guest touches it (KVM_PRE_FAULT_MEMORY, api.rst 4.143).

    python examples/pre_fault.py

Needs KVM_CAP_PRE_FAULT_MEMORY, which wants a two-dimensional page table: VMX, SVM, or the lab.
"""

from pyvmm.experiment import guest, short_errors

START, SIZE = 0x100000, 0x40000


def mapped(vm):
    """Pages of 4 KiB in the second-level page tables of a VM."""
    with vm.statistics() as statistics:
        return next(one.values[0] for one in statistics.read() if one.descriptor.name == "pages_4k")


with short_errors(), guest("hlt", host="kvm") as one:
    print("the guest runs once:", one.run())
    before = mapped(one.vm)
    one.vcpu.pre_fault(START, SIZE)
    print(f"{mapped(one.vm) - before} pages of {SIZE >> 12} are mapped that it has not touched")
