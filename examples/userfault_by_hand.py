# SPDX-License-Identifier: MIT
"""Userfault by hand: a guest touches memory that is not there yet, and this process brings it.

    python examples/userfault_by_hand.py [kvm|model]

userfaultfd(2) is no part of KVM, nor of pyvmm: its ioctls are declared here from C, as its header
has them. Needs the right to handle faults of the kernel: root, or vm.unprivileged_userfaultfd=1.
"""

import ctypes
import os
import sys
import threading

from pyvmm.experiment import address_of, declare, guest
from pyvmm.hosts.kvm.ownership import FdOwner

C = declare("""
#define UFFDIO          0xAA
#define UFFD_API        ((__u64)0xAA)
struct uffdio_api      { __u64 api; __u64 features; __u64 ioctls; };
struct uffdio_range    { __u64 start; __u64 len; };
struct uffdio_register { struct uffdio_range range; __u64 mode; __u64 ioctls; };
struct uffdio_copy     { __u64 dst; __u64 src; __u64 len; __u64 mode; __s64 copy; };
struct uffd_msg        { __u8 event; __u8 pad[7]; __u64 flags; __u64 address; __u64 thread; };
#define UFFDIO_API      _IOWR(UFFDIO, 0x3F, struct uffdio_api)
#define UFFDIO_REGISTER _IOWR(UFFDIO, 0x00, struct uffdio_register)
#define UFFDIO_COPY     _IOWR(UFFDIO, 0x03, struct uffdio_copy)
#define MISSING         1
""")
LATE, PAGE = 0x100000, 4096
CODE = f"mov {LATE + PAGE}, %eax; mov {LATE}, %ebx; hlt"


def bring_pages(faults, hva):
    """Answer two faults: a page begins with its own number."""
    for _ in range(2):
        message = C.view("struct uffd_msg", bytearray(os.read(faults.fd, 32)))
        at = message.address & -PAGE
        print(f"page {(at - hva) >> 12:#x} is missing")
        content = C.new("__u64[512]")
        content[0] = (at - hva) >> 12
        C.UFFDIO_COPY(faults, dst=at, src=address_of(content), len=PAGE)


with guest(CODE, host=(*sys.argv[1:], "auto")[0]) as one:
    number = ctypes.CDLL(None, use_errno=True).syscall(323, os.O_CLOEXEC)  # userfaultfd(2)
    if number < 0:
        sys.exit(f"userfaultfd: {os.strerror(ctypes.get_errno())}")
    with FdOwner(number) as faults:
        C.UFFDIO_API(faults, api=C.UFFD_API)
        hva = one.memory.hva
        range_ = C.new("struct uffdio_register", mode=C.MISSING)
        range_.range.start, range_.range.len = hva + LATE, 2 * PAGE
        C.UFFDIO_REGISTER(faults, range_)
        handler = threading.Thread(target=bring_pages, args=(faults, hva))
        handler.start()
        print(one.run())
        handler.join()
    print(f"the guest has read {one.regs.rax:#x} and {one.regs.rbx:#x}")
