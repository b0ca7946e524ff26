# SPDX-License-Identifier: MIT
"""Dirty logging: KVM notes which pages a guest has written to, and forgets them when they are read.

    python examples/dirty_logging.py

The memory is an anonymous file: memslots of a guest_memfd keep no log. A page that is mapped
writable counts as written, so that the first read of one may be in the log. Pages 2 to 4 are the
guest's page tables, in which its processor notes what was accessed.
"""

from pyvmm.experiment import guest, short_errors
from pyvmm.hosts.interface import MemslotFlag

CODE = """
        mov     0x103000, %al
        out     %al, $0x80
        movb    $1, 0x101000
        movb    $2, 0x107fff
        mov     0x103000, %al           # mapped before: a read makes it no more dirty
        out     %al, $0x80
        movb    $3, 0x108000
        hlt
"""


def dirty_pages(one):
    """Page frame numbers that are set in the log of slot 0, all of a guest's memory."""
    size = one.memory.size
    bits = int.from_bytes(one.vm.get_dirty_log(0, size), "little")
    return [hex(page) for page in range(size >> 12) if bits >> page & 1]


with short_errors(), guest(CODE, host="kvm", memslot_flags=MemslotFlag.LOG_DIRTY_PAGES) as one:
    print("to begin with:", one.run(), *dirty_pages(one))
    print("two pages written:", one.run(), *dirty_pages(one))
    print("one more:", one.run(), *dirty_pages(one))
