# SPDX-License-Identifier: MIT
"""A new ioctl: declared from the C of a patch, and tried on a kernel that may not know it.

    python examples/new_ioctl.py

KVM_SET_MEMORY_ATTRIBUTES2 is posted for guest_memfds (in-place conversion) and in no release:
`pyvmm lab build --with in-place-conversion` makes a kernel that has it. KVM_GET_CLOCK, which all
kernels have, is declared the same way, to see an answer.
"""

from pyvmm.errors import PyvmmError
from pyvmm.experiment import declare, short_errors
from pyvmm.hosts.capabilities import GuestMemfdFlag, VmType
from pyvmm.hosts.kvm.system import System

C = declare("""
struct kvm_memory_attributes2 {
        union { __u64 address; __u64 offset; };
        __u64 size;
        __u64 attributes;
        __u64 flags;
        __u64 error_offset;
        __u64 reserved[11];
};
struct kvm_clock_data {
        __u64 clock;
        __u32 flags;
        __u32 pad0;
        __u64 realtime;
        __u64 host_tsc;
        __u32 pad[4];
};
#define KVM_SET_MEMORY_ATTRIBUTES2      _IOWR(KVMIO, 0xd2, struct kvm_memory_attributes2)
#define KVM_GET_CLOCK                   _IOR(KVMIO, 0x7c, struct kvm_clock_data)
#define KVM_MEMORY_ATTRIBUTE_PRIVATE    (1ULL << 3)
""")

with short_errors(), System() as system:
    # Where files keep attributes, those of VMs with private memory do.
    kind = VmType.SW_PROTECTED if system.capabilities().file_attributes else VmType.DEFAULT
    with system.create_vm(kind) as vm:
        answer = C.KVM_GET_CLOCK(vm)
        print(f"{C.KVM_GET_CLOCK}: {answer.argument.clock} ns")
        flags = GuestMemfdFlag.MMAP | GuestMemfdFlag.INIT_SHARED
        with vm.create_guest_memfd(1 << 20, flags) as file:
            try:
                C.KVM_SET_MEMORY_ATTRIBUTES2(
                    file, offset=0x1000, size=0x1000, attributes=C.KVM_MEMORY_ATTRIBUTE_PRIVATE
                )
            except PyvmmError as error:
                print(error)
            else:
                print("the page at 0x1000 is private")
