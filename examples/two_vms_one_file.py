# SPDX-License-Identifier: MIT
"""Two VMs and one file: a guest_memfd is bound by its own VM only, its mapping serves any VM.

    python examples/two_vms_one_file.py [kvm|model]

Needs a guest_memfd that can be mapped (GUEST_MEMFD_FLAG_MMAP, INIT_SHARED): Linux 6.18.
"""

import sys

from pyvmm.errors import SystemCallError
from pyvmm.experiment import guest, short_errors
from pyvmm.hosts.capabilities import GuestMemfdFlag
from pyvmm.hosts.interface import Memslot

FLAGS = GuestMemfdFlag.MMAP | GuestMemfdFlag.INIT_SHARED
PLACE = 0x1000000  # GPA 16 MiB of the second VM
WRITES = "movl $0x12345678, 0x100000; hlt"
READS = f"mov {PLACE + 0x100000:#x}, %eax; hlt"

with (
    short_errors(),
    guest(WRITES, host=(*sys.argv[1:], "auto")[0], guest_memfd_flags=FLAGS) as first,
    guest(READS, host=first.system) as second,
):
    print("the first guest writes to its memory:", *first.exits())

    slot = Memslot(1, PLACE, first.memory.size, first.memory.hva)
    try:
        second.vm.set_memslot(slot._replace(guest_memfd=first.guest_memfd))
    except SystemCallError as refusal:
        print("the second VM binds the first one's file:", refusal.cause)

    second.vm.set_memslot(slot)
    print("the second VM takes the file's mapping:", *second.exits())
    print(f"the second guest reads {second.regs.rax:#x}")
