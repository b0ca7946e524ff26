# SPDX-License-Identifier: MIT
"""Operations as steps under locks: Linux 7.3's, v11's, and the mail's proposal.

A step is atomic; between two steps any other thread may run. Steps follow the kernel's functions,
named beside each; what only prepares or accounts is left out. The release of a file whose last
reference goes inside a system call runs at its end (``fput`` defers it), when no lock is held.
"""

from __future__ import annotations

from pyvmm.lifetime.access_programs import Access
from pyvmm.lifetime.locks import (
    F_FD,
    F_FREED,
    F_INODE,
    F_LIVE,
    F_REFS,
    F_STATE,
    F_VM,
    FILE,
    FILE_CELLS,
    FIRST_PAGE,
    I_FILES,
    INODE,
    PAGES,
    S_INVALID,
    S_NEW,
    S_STATE,
    S_VISIBLE,
    S_VM,
    SLOT,
    SLOT_CELLS,
    SRCU,
    T_FILE,
    T_SEEN,
    THREAD,
    V_FD,
    V_REFS,
    V_VCPU,
    VM,
    Body,
    Cells,
    Harm,
    Protection,
    slot_cells,
)
from pyvmm.lifetime.race_tasks import Act, Failure, Task
from pyvmm.lifetime.steps import Program


class Writer(Access):
    """Writes the programs of one locking over a floor."""

    def program(self, task: Task) -> Program:
        """The steps of a task."""
        self._steps, self._labels = [], {}
        {
            Act.BIND: self._bind,
            Act.UNBIND: self._unbind,
            Act.CLOSE_FILE: self._close_file,
            Act.CLOSE_VM: self._close_vm,
            Act.GUEST: self._guest,
            Act.PUNCH: self._punch,
            Act.MEMORY_ERROR: self._memory_error,
            Act.REOPEN: self._reopen,
            Act.CLOSE_VCPU: self._close_vcpu,
            Act.LINK: self._link,
            Act.POPULATE: self._populate,
        }[task.act](task)
        self._tail()
        names, bodies, quiet = zip(*self._steps, strict=True)
        end = len(names)
        return Program(names, bodies, quiet, {**self._labels, "end": end}, end)

    # Programs

    def _bind(self, task: Task) -> None:
        """``kvm_set_memory_region`` with a file.

        7.3 does all else that may fail first (``kvm_gmem_commit_memory_region``); up to 7.0
        ``kvm_gmem_bind`` comes first, drops the file at its end, and ignores that it fails.
        """
        v, s = task.vm, task.slot
        self._enter(v)
        self._lock_slots(v)
        self._prepare(task)
        if task.fails is Failure.SLOT and not (self._binds_first or self._pins):
            self._free_new_slot(task)
        else:
            self._store(task)
            if task.fails is Failure.SLOT:
                if self._binds_first:
                    self._step("drop the file", self._put_file)
                if self.floor.has(Protection.ROLL_BACK):
                    self._gmem_unbind(s, " again")
                self._step("free the slot", self._free_slot(s))
            elif task.fails is Failure.STORE and not self._binds_first:
                self._free_new_slot(task)
            else:
                self._publish(task)
        self._label("refused")
        self._unlock_slots(v)

    def _prepare(self, task: Task) -> None:
        v, s, f = task.vm, task.slot, task.file

        def fget(w: Cells, t: int) -> str | None:
            if w[SLOT[s] + S_STATE] or not w[FILE[f] + F_FD]:
                return "refused"
            w[FILE[f] + F_REFS] += 1
            w[THREAD[t] + T_FILE] = f + 1
            if not self._pins and w[FILE[f] + F_VM] != v + 1:
                self.floor.put_file(w, t, f)
                return "refused"
            return None

        def prepare(w: Cells, _t: int) -> str | None:
            w[SLOT[s] : SLOT[s] + SLOT_CELLS] = slot_cells(S_NEW, v + 1, f + 1, task.pages)
            return None

        self._step("fget the file", fget)
        self._step("prepare the slot", prepare)

    def _store(self, task: Task) -> None:
        """The bindings; of all pages but the second where there is no memory for that."""
        v, s, f, pages = task.vm, task.slot, task.file, task.pages
        floor = self.floor
        stored = pages & FIRST_PAGE if task.fails is Failure.STORE else pages

        def look(w: Cells, t: int) -> str | None:
            floor.use_bindings(w, f)
            taken = floor.bound_slots(w, f, pages) or w[FILE[f] + F_VM] not in (0, v + 1)
            w[THREAD[t] + T_SEEN] = 1 if taken else 0
            return "taken" if taken else None

        def store(w: Cells, _t: int) -> str | None:
            floor.bind(w, f, stored, s + 1)
            w[FILE[f] + F_VM] = v + 1
            return None

        def erase(w: Cells, _t: int) -> str | None:
            floor.bind(w, f, pages, 0)
            return None

        def refuse(w: Cells, t: int) -> str | None:
            if not w[THREAD[t] + T_SEEN]:
                return None
            w[SLOT[s] : SLOT[s] + SLOT_CELLS] = slot_cells(0)
            floor.put_file(w, t, f)
            return "refused"

        self._lock_inode()
        self._step("look for a binding", look)
        self._step("store the binding", store)
        if stored != pages and not self._binds_first:
            if floor.has(Protection.ROLL_BACK):
                self._step("no memory: erase the binding", erase)
            if self._pins and floor.has(Protection.ROLL_BACK_VM):
                self._forget_vm("")
        self._label("taken")
        self._unlock_inode()
        self._step("was there a binding?", refuse)

    def _publish(self, task: Task) -> None:
        s = task.slot

        def publish(w: Cells, _t: int) -> str | None:
            if w[SLOT[s] + S_STATE] != S_NEW:
                self.floor.harm(Harm.DOUBLE_FREE)
            w[SLOT[s] + S_STATE] = S_VISIBLE
            return None

        if self._binds_first:
            self._step("drop the file", self._put_file)
        self._step("make the slot visible", publish)
        if not (self._binds_first or self._pins):
            self._step("drop the file", self._put_file)

    def _free_new_slot(self, task: Task) -> None:
        """``kvm_set_memory_region`` on its way out: put the file, ``kfree(new)``."""
        self._step("drop the file", self._put_file)
        self._step("free the slot", self._free_slot(task.slot))

    def _free_slot(self, s: int) -> Body:
        def free(w: Cells, _t: int) -> str | None:
            self.floor.free_slot(w, s)
            return None

        return free

    def _unbind(self, task: Task) -> None:
        v, s = task.vm, task.slot
        at = SLOT[s]
        floor = self.floor

        def invalidate(w: Cells, _t: int) -> str | None:
            if w[at + S_STATE] != S_VISIBLE or w[at + S_VM] != v + 1:
                return "refused"
            w[at + S_STATE] = S_INVALID
            return None

        def zap(w: Cells, _t: int) -> str | None:
            floor.zap(w, s)
            return None

        self._enter(v)
        self._lock_slots(v)
        self._step("make the slot invalid", invalidate)
        self._grace("synchronize_srcu", Protection.SRCU_GRACE, SRCU)
        self._step("zap the slot", zap)
        self._gmem_unbind(s, "")
        self._step("free the slot", self._free_slot(s))
        self._label("refused")
        self._unlock_slots(v)

    def _close_file(self, task: Task) -> None:
        f = task.file

        def close(w: Cells, t: int) -> str | None:
            if not w[FILE[f] + F_FD]:
                return "end"
            w[FILE[f] + F_FD] = 0
            self.floor.put_file(w, t, f)
            return None

        self._step("close the descriptor", close)

    def _close_vm(self, task: Task) -> None:
        v = task.vm

        def close(w: Cells, t: int) -> str | None:
            if not w[VM[v] + V_FD]:
                return "end"
            w[VM[v] + V_FD] = 0
            self.floor.put_vm(w, t, v)
            return None

        self._step("close the descriptor", close)

    def _close_vcpu(self, task: Task) -> None:
        """``kvm_vcpu_release``: a vCPU's descriptor holds a reference on its VM."""
        v = task.vm

        def close(w: Cells, t: int) -> str | None:
            if not w[VM[v] + V_VCPU]:
                return "end"
            w[VM[v] + V_VCPU] = 0
            self.floor.put_vm(w, t, v)
            return None

        self._step("close the vCPU's descriptor", close)

    def _reopen(self, task: Task) -> None:
        """A new guest_memfd of another VM, with the memory of a freed ``struct file``."""
        v, f = task.vm, task.file

        def create(w: Cells, _t: int) -> str | None:
            if w[FILE[f] + F_STATE] != F_FREED or not w[VM[v] + V_FD]:
                return "end"
            names = 0 if self._pins else v + 1
            w[FILE[f] : FILE[f] + FILE_CELLS] = bytes((F_LIVE, 1, 1, names, 1, *[0] * PAGES))
            w[VM[v] + V_REFS] += self._file_pins
            w[INODE[1] + I_FILES] = 1
            return None

        self._step("create a file of inode1", create)

    def _link(self, task: Task) -> None:
        """KVM_LINK_GUEST_MEMFD as in its RFC v2 (May 2025, not merged): ``kvm_gmem_link``.

        There the list is joined without a lock; a reading of it, not of a kernel.
        """
        v, f, linked = task.vm, task.file, 1

        def fget(w: Cells, t: int) -> str | None:
            if not w[FILE[f] + F_FD] or w[FILE[f] + F_VM] == v + 1 or w[FILE[linked] + F_STATE]:
                return "refused"
            w[FILE[f] + F_REFS] += 1
            w[THREAD[t] + T_FILE] = f + 1
            return None

        def join(w: Cells, _t: int) -> str | None:
            inode = w[FILE[f] + F_INODE]
            names = 0 if self._pins else v + 1
            cells = bytes((F_LIVE, 1, 1, names, inode, *[0] * PAGES))
            w[FILE[linked] : FILE[linked] + FILE_CELLS] = cells
            w[VM[v] + V_REFS] += self._file_pins
            w[INODE[inode] + I_FILES] += 1
            return None

        locked = self.floor.has(Protection.LIST_LOCK)
        self._enter(v)
        self._step("fget the file", fget)
        if locked:
            self._lock_inode()
        protections = (Protection.INVALIDATE_LOCK, Protection.LIST_LOCK)
        self._change_list("join the inode's list", join, *protections)
        if locked:
            self._unlock_inode()
        self._step("drop the file", self._put_file)
        self._label("refused")
