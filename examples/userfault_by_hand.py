# SPDX-License-Identifier: MIT
"""Userfault by hand: a guest touches memory that is not there yet, and this process brings it.

    python examples/userfault_by_hand.py [kvm|model]

The ioctls of userfaultfd(2), system call 323, are declared from C here, as its header has them.
Needs the right to handle faults of the kernel: root, or vm.unprivileged_userfaultfd=1.
"""

import ctypes
import os
import select
import sys
from concurrent.futures import ThreadPoolExecutor

from pyvmm.errors import HostLacksError
from pyvmm.experiment import Descriptor, address_of, declare, guest, short_errors
from pyvmm.hosts.eventfd import Eventfd

C = declare("""
struct uffdio_api      { __u64 api; __u64 features; __u64 ioctls; };
struct uffdio_range    { __u64 start; __u64 len; };
struct uffdio_register { struct uffdio_range range; __u64 mode; __u64 ioctls; };
struct uffdio_copy     { __u64 dst; __u64 src; __u64 len; __u64 mode; __s64 copy; };
struct uffd_msg        { __u8 event; __u8 pad[7]; __u64 flags; __u64 address; __u64 thread; };
#define UFFDIO_API      _IOWR(0xAA, 0x3F, struct uffdio_api)
#define UFFDIO_REGISTER _IOWR(0xAA, 0x00, struct uffdio_register)
#define UFFDIO_COPY     _IOWR(0xAA, 0x03, struct uffdio_copy)
""")
LATE, PAGE = 0x100000, 4096
CODE = f"mov {LATE + PAGE}, %eax; mov {LATE}, %ebx; hlt"


def bring_pages(faults, over, hva):
    """Answer faults until `over` is signalled: a page begins with its own number."""
    with faults:  # No guest waits any more once it is closed.
        while over not in select.select([faults, over], [], [])[0]:
            message = C.view("struct uffd_msg", os.read(faults.fd, 32))
            at = message.address & -PAGE
            print(f"page {(at - hva) >> 12:#x} is missing")
            content = C.new("__u64[512]")
            content[0] = (at - hva) >> 12
            C.UFFDIO_COPY(faults, dst=at, src=address_of(content), len=PAGE)


with short_errors(), guest(CODE, host=(*sys.argv[1:], "auto")[0]) as one:
    number = ctypes.CDLL(None, use_errno=True).syscall(323, os.O_CLOEXEC | os.O_NONBLOCK)
    if number < 0:
        raise HostLacksError("open a userfaultfd", os.strerror(ctypes.get_errno()))
    with Descriptor(number) as faults, Eventfd() as over, ThreadPoolExecutor() as pool:
        C.UFFDIO_API(faults, api=0xAA)
        late = C.new("struct uffdio_range", start=one.memory.hva + LATE, len=2 * PAGE)
        C.UFFDIO_REGISTER(faults, range=late, mode=1)  # UFFDIO_REGISTER_MODE_MISSING
        handler = pool.submit(bring_pages, faults, over, one.memory.hva)
        try:
            print(one.run())
        finally:
            over.signal()
        handler.result()
    print(f"the guest has read {one.regs.rax:#x} and {one.regs.rbx:#x}")
