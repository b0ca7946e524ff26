# SPDX-License-Identifier: MIT
"""Objects, locks and threads of a race: the cells of a state, and what protects them.

A race has two VMs, two files, two inodes of two pages, three slots and up to three threads, each
in one operation. Addresses are numbers, a freed object stays freed: what is used after that is a
fault. Indices are stored one higher, so that 0 is "none". A range of pages is a mask of them.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field

Cells = bytearray
"""One byte a cell."""

VMS = FILES = INODES = PAGES = 2
FIRST_PAGE, SECOND_PAGE, BOTH_PAGES = 1, 2, 3
SLOTS = 3
THREADS = 3

# A VM: state, references, descriptor, invalidations in progress (NONE_IN_PROGRESS: none), their
# sequence number, slots_lock's holder, descriptor of a vCPU that is open without the VM's own.
VM_CELLS = 7
V_STATE, V_REFS, V_FD, V_INVALIDATING, V_SEQUENCE, V_LOCK, V_VCPU = range(VM_CELLS)
V_LIVE, V_TORN, V_FREED = 1, 2, 3
"""A VM whose MMU is torn down is not freed yet, but nothing may touch its page tables any more."""
NONE_IN_PROGRESS = 8

# A file: state, references, descriptor, VM pointer, inode, the slot that each page is bound to.
FILE_CELLS = 5 + PAGES
F_STATE, F_REFS, F_FD, F_VM, F_INODE, F_BINDINGS = range(FILE_CELLS - PAGES + 1)
F_LIVE, F_EMPTIED, F_FREED = 1, 2, 3
"""An emptied file has lost its ``struct gmem_file`` with bindings and VM pointer."""

# An inode: files, the invalidate lock's holder, those who share it, as a mask, who is changing its
# list of files, counted, and each page's generation (a page given back is another one).
INODE_CELLS = 4 + PAGES
I_FILES, I_LOCK, I_SHARERS, I_CHANGING, I_PAGES = range(INODE_CELLS - PAGES + 1)

GENERATIONS = 16
"""More than a race can give pages back."""

# A slot: state, VM, file pointer, range of the file, guest mapping of the first page in it.
SLOT_CELLS = 5
S_STATE, S_VM, S_FILE, S_PAGES, S_MAPPING = range(SLOT_CELLS)
S_NEW, S_VISIBLE, S_INVALID, S_FREED = 1, 2, 3, 4

# A thread: where it is, and what it remembers. A dying VM is one in a mask.
THREAD_CELLS = 9
T_AT, T_FILE, T_SEEN, T_SLOT, T_READS, T_WAITS, T_PENDING, T_DYING, T_HOLDS = range(THREAD_CELLS)

SRCU, RCU = 1, 2
"""Read-side sections: kvm->srcu for a whole fault, RCU for getting the file."""

VM = tuple(i * VM_CELLS for i in range(VMS))
FILE = tuple(VMS * VM_CELLS + i * FILE_CELLS for i in range(FILES))
INODE = tuple(FILE[-1] + FILE_CELLS + i * INODE_CELLS for i in range(INODES))
SLOT = tuple(INODE[-1] + INODE_CELLS + i * SLOT_CELLS for i in range(SLOTS))
THREAD = tuple(SLOT[-1] + SLOT_CELLS + i * THREAD_CELLS for i in range(THREADS))
SIZE = THREAD[-1] + THREAD_CELLS


class Protection(enum.Enum):
    """Means that keep concurrent operations apart. Each can be dropped to see what it is for."""

    SLOTS_LOCK = "kvm->slots_lock"
    INVALIDATE_LOCK = "the mapping's invalidate lock"
    SRCU_GRACE = "the wait for vCPUs in kvm->srcu before a slot is freed"
    RCU_GRACE = "synchronize_rcu after a slot's file pointer is cleared"
    FILE_MEMORY = "struct file's memory outlives its last RCU reader"
    UNLESS_ZERO = "a reference is taken only where the count is not zero"
    RETRY = "a fault is thrown away when an invalidation came between (mmu_invalidate_seq)"
    SLOTS_FIRST = "a dying VM deletes its slots before its MMU is torn down"
    FILE_PINS = "a file takes a reference on its VM when it is created"
    RELEASE_OUTSIDE_SRCU = "what a fault's fput defers runs when kvm->srcu is left"
    ROLL_BACK = "what a binding stored before it failed is erased"
    ROLL_BACK_VM = "a first binding that fails clears the VM pointer that it has set"
    RELOAD = "a slot's file pointer is loaded again when a reference is taken"
    SAME_FILE = "a fault looks if its file is the slot's file"
    SAME_SLOT = "a fault looks if its file's bindings name the slot"
    LIST_LOCK = "a file joins or leaves its inode's list under the invalidate lock"
    FETCH_ONCE = "who fills a page is handed it, and does not look it up again"


class Harm(enum.Enum):
    """Harms that must never happen."""

    FREED_SLOT = "a freed slot was used"
    FREED_FILE = "a freed file was used"
    FREED_BINDINGS = "a freed struct gmem_file was used"
    FREED_VM = "a VM was used that is freed or whose MMU is torn down"
    STALE_MAPPING = "a guest maps a page that was given back"
    STALE_POINTER = "at the end something points to what is freed"
    TWO_VMS = "a file is bound to slots of two VMs, or of one that it does not name"
    UNBALANCED = "an invalidation is begun and never ended, or ended and never begun"
    DOUBLE_FREE = "something was freed twice"
    LEFT_OVER = "something is left that nobody can free any more"
    DEADLOCK = "nobody can go on"
    HALF_BOUND = "a slot is visible whose file does not name it"
    WRONG_FILE = "a fault took a page of a file that its slot is not bound to"
    LIST_CHANGED = "an inode's list of files was walked while it was being changed"


@dataclass
class Floor:
    """Meeting place of the threads: effects on cells that more than one program has.

    `harms` collects what went wrong in a step; who runs the step empties it. `torn_is_harm`: a VM
    must not be touched any more once its MMU is torn down, an assumption.
    """

    held: frozenset[Protection]
    slots_pin_files: bool
    torn_is_harm: bool = True
    harms: list[Harm] = field(default_factory=list)
    acquisitions: int = 0

    def has(self, protection: Protection) -> bool:
        """Tell whether `protection` was not dropped."""
        return protection in self.held

    def take(self, w: Cells, lock: int, t: int, protection: Protection) -> bool:
        """Take the lock in cell `lock`; False where another thread has it."""
        if not self.has(protection):
            return True
        if w[lock]:
            return False
        w[lock] = t + 1
        return True

    def take_shared(self, w: Cells, inode: int, t: int) -> bool:
        """Take an inode's invalidate lock beside others who share it; False where one has it."""
        if not self.has(Protection.INVALIDATE_LOCK):
            return True
        if w[inode + I_LOCK]:
            return False
        w[inode + I_SHARERS] |= 1 << t
        return True

    def give_shared(self, w: Cells, inode: int, t: int) -> None:
        """Give it back, if this thread shares it."""
        w[inode + I_SHARERS] &= ~(1 << t)

    def give(self, w: Cells, lock: int, t: int) -> None:
        """Give the lock back, if this thread has it."""
        if w[lock] == t + 1:
            w[lock] = 0

    def harm(self, harm: Harm) -> None:
        """Something went wrong."""
        self.harms.append(harm)

    def use_slot(self, w: Cells, s: int) -> bool:
        """Tell whether a slot's memory may be touched; a harm is noted if not."""
        if w[SLOT[s] + S_STATE] in (0, S_FREED):
            self.harm(Harm.FREED_SLOT)
            return False
        return True

    def use_bindings(self, w: Cells, f: int) -> bool:
        """Tell whether a file's bindings may be touched; a harm is noted if not."""
        if w[FILE[f] + F_STATE] != F_LIVE:
            self.harm(Harm.FREED_BINDINGS)
            return False
        return True

    def use_vm(self, w: Cells, v: int) -> bool:
        """Tell whether a VM and its MMU may be touched; a harm is noted if not."""
        if v >= 0 and w[VM[v] + V_STATE] == V_TORN and not self.torn_is_harm:
            return True
        if v < 0 or w[VM[v] + V_STATE] != V_LIVE:
            self.harm(Harm.FREED_VM)
            return False
        return True

    def zap(self, w: Cells, s: int) -> None:
        """Remove the guest's mapping of a slot; faults under way notice by the sequence number."""
        if self.use_slot(w, s):
            w[SLOT[s] + S_MAPPING] = 0
            w[VM[w[SLOT[s] + S_VM] - 1] + V_SEQUENCE] += 1  # kvm_mmu_invalidate_end

    def put_file(self, w: Cells, t: int, f: int) -> None:
        """Drop a reference; the last one leaves the release to the end of the system call."""
        at = FILE[f]
        if w[at + F_REFS] <= 0:
            self.harm(Harm.DOUBLE_FREE)
            return
        w[at + F_REFS] -= 1
        if w[at + F_REFS]:
            return
        if w[THREAD[t] + T_PENDING]:
            raise RuntimeError("a thread has two files to release: give it a cell for each")
        w[THREAD[t] + T_PENDING] = f + 1

    def put_vm(self, w: Cells, t: int, v: int) -> None:
        """Drop a reference; the last one leaves the VM's destruction to this thread."""
        at = VM[v]
        if w[at + V_REFS] <= 0 or w[at + V_STATE] != V_LIVE:
            self.harm(Harm.FREED_VM)
            return
        w[at + V_REFS] -= 1
        if not w[at + V_REFS]:
            w[THREAD[t] + T_DYING] |= 1 << v

    def give_pages_back(self, w: Cells, i: int) -> None:
        """The inode's pages are freed: no guest may map them any more."""
        for page in range(PAGES):
            w[INODE[i] + I_PAGES + page] += 1
        self.check_mappings(w)

    def check_mappings(self, w: Cells) -> None:
        """Every guest mapping must be of a page that is still there."""
        for at in SLOT:
            mapping = w[at + S_MAPPING]
            if not mapping:
                continue
            i, page = divmod((mapping - 1) // GENERATIONS, PAGES)
            if mapping != mapping_of(w, i, page):
                self.harm(Harm.STALE_MAPPING)

    def bound_slots(self, w: Cells, f: int, pages: int) -> list[int]:
        """The slots that a range of a file is bound to, each once."""
        at = FILE[f] + F_BINDINGS
        bound = {w[at + page] - 1 for page in range(PAGES) if pages >> page & 1}
        return sorted(bound - {-1})

    def bind(self, w: Cells, f: int, pages: int, slot: int) -> None:
        """Store a slot, one higher, or 0 in the bindings of a range: ``xa_store_range``."""
        for page in range(PAGES):
            if pages >> page & 1:
                w[FILE[f] + F_BINDINGS + page] = slot

    def free_file(self, w: Cells, f: int) -> None:
        """``struct file`` goes, and the inode with its last file."""
        at = FILE[f]
        if w[at + F_STATE] == F_FREED:
            self.harm(Harm.DOUBLE_FREE)
            return
        w[at + F_STATE] = F_FREED
        inode = INODE[w[at + F_INODE]]
        w[inode + I_FILES] -= 1
        if not w[inode + I_FILES]:
            self.give_pages_back(w, w[at + F_INODE])

    def free_slot(self, w: Cells, s: int) -> None:
        """``kfree(slot)``."""
        at = SLOT[s]
        if w[at + S_STATE] == S_FREED:
            self.harm(Harm.DOUBLE_FREE)
        if w[at + S_MAPPING]:
            self.harm(Harm.STALE_MAPPING)
        w[at : at + SLOT_CELLS] = slot_cells(S_FREED)

    def readers(self, w: Cells, me: int, section: int) -> int:
        """The threads, as a mask, that are in a read-side `section`, but this one."""
        return sum(1 << t for t in range(THREADS) if t != me and w[THREAD[t] + T_READS] & section)


def slot_cells(state: int, vm: int = 0, file: int = 0, pages: int = 0) -> bytes:
    """The cells of a slot; VM and file one higher than their numbers."""
    return bytes((state, vm, file, pages, 0))


def first_page(pages: int) -> int:
    """The first page of a range."""
    return 0 if pages & FIRST_PAGE else 1


def mapping_of(w: Cells, i: int, page: int) -> int:
    """A slot's mapping cell when it maps the present page of an inode."""
    return 1 + (i * PAGES + page) * GENERATIONS + w[INODE[i] + I_PAGES + page]


Body = Callable[[Cells, int], str | None]
"""A step of a program: changes cells for a thread; gives where to go on, None for the next step."""

BLOCKED = "blocked"
"""Outcome of a body when the thread must wait; it has changed nothing."""
