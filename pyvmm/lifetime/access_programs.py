# SPDX-License-Identifier: MIT
"""A guest's access, a hole, an error on a page: programs that go from a slot or inode to pages."""

from __future__ import annotations

from pyvmm.lifetime.endings import Endings
from pyvmm.lifetime.locks import (
    BOTH_PAGES,
    F_FD,
    F_FREED,
    F_INODE,
    F_LIVE,
    F_REFS,
    F_STATE,
    F_VM,
    FILE,
    I_CHANGING,
    I_FILES,
    INODE,
    NONE_IN_PROGRESS,
    RCU,
    S_FILE,
    S_MAPPING,
    S_PAGES,
    S_STATE,
    S_VISIBLE,
    S_VM,
    SLOT,
    SRCU,
    T_FILE,
    T_READS,
    T_SEEN,
    T_SLOT,
    THREAD,
    V_INVALIDATING,
    V_SEQUENCE,
    VM,
    Body,
    Cells,
    Harm,
    Protection,
    first_page,
    mapping_of,
)
from pyvmm.lifetime.race_tasks import Task
from pyvmm.lifetime.steps import Locking


class Access(Endings):
    """Writes the programs that use a file's pages or take them away."""

    def _guest(self, task: Task) -> None:
        """A fault: ``kvm_gmem_get_pfn``, then the mapping under mmu_lock unless it is stale."""
        v, s = task.vm, task.slot

        def lookup(w: Cells, t: int) -> str | None:
            w[THREAD[t] + T_READS] = SRCU
            if w[SLOT[s] + S_STATE] != S_VISIBLE or w[SLOT[s] + S_VM] != v + 1:
                return "leave"
            w[THREAD[t] + T_SEEN] = w[VM[v] + V_SEQUENCE]
            return None

        def leave(w: Cells, t: int) -> str | None:
            w[THREAD[t] + T_READS] = 0
            return None

        self._enter(v, by_vcpu=True)
        self._step("enter srcu, look the slot up", lookup)
        self._get_file(s)
        if self.locking is Locking.NEWEST:
            self._lock_inode_shared()
        self._find_page(s)
        if self.locking is Locking.NEWEST:
            self._unlock_inode_shared()
        self._drop_got_file()
        self._install_mapping(v, s)
        self._label("leave")
        if not self._pins and not self.floor.has(Protection.RELEASE_OUTSIDE_SRCU):
            self._release_pending(" in srcu")
        self._step("leave srcu", leave, quiet=True)

    def _get_file(self, s: int) -> None:
        """``kvm_gmem_get_file``, that is ``get_file_active``; the proposal's slot holds its file.

        The memory of a freed ``struct file`` may be another file at once (SLAB_TYPESAFE_BY_RCU).
        """
        floor = self.floor

        def load(w: Cells, t: int) -> str | None:
            if not floor.use_slot(w, s) or not w[SLOT[s] + S_FILE]:
                return "leave"
            w[THREAD[t] + T_FILE] = w[SLOT[s] + S_FILE]
            if not self._pins:
                w[THREAD[t] + T_READS] = SRCU | RCU
            return None

        def get(w: Cells, t: int) -> str | None:
            f = FILE[w[THREAD[t] + T_FILE] - 1]
            if w[f + F_STATE] == F_FREED and not floor.has(Protection.FILE_MEMORY):
                floor.harm(Harm.FREED_FILE)
            if not w[f + F_REFS] and floor.has(Protection.UNLESS_ZERO):
                w[THREAD[t] + T_READS] = SRCU
                return "leave"
            w[f + F_REFS] += 1
            if not floor.has(Protection.RELOAD):
                w[THREAD[t] + T_READS] = SRCU
            return None

        def reload(w: Cells, t: int) -> str | None:
            w[THREAD[t] + T_READS] = SRCU
            if not floor.use_slot(w, s) or w[SLOT[s] + S_FILE] == w[THREAD[t] + T_FILE]:
                return None
            floor.put_file(w, t, w[THREAD[t] + T_FILE] - 1)
            return "leave"

        self._step("load the slot's file", load)
        if not self._pins:
            self._step("get the file", get)
            if floor.has(Protection.RELOAD):
                self._step("load the slot's file again", reload)

    def _find_page(self, s: int) -> None:
        """``__kvm_gmem_get_pfn``: the page, as a mapping of it; 0 where there is none."""
        floor = self.floor

        def find(w: Cells, t: int) -> str | None:
            f = w[THREAD[t] + T_FILE] - 1
            floor.use_slot(w, s)
            page = first_page(w[SLOT[s] + S_PAGES])
            if w[FILE[f] + F_STATE] == F_FREED:
                floor.harm(Harm.FREED_FILE)
            if w[FILE[f] + F_STATE] == F_FREED or not floor.use_bindings(w, f):
                return None
            if w[SLOT[s] + S_FILE] != f + 1 and floor.has(Protection.SAME_FILE):
                return None
            if floor.bound_slots(w, f, 1 << page) == [s]:
                w[THREAD[t] + T_SLOT] = mapping_of(w, w[FILE[f] + F_INODE], page)
            elif not floor.has(Protection.SAME_SLOT):
                floor.harm(Harm.WRONG_FILE)
            return None

        self._step("find the page", find)

    def _drop_got_file(self) -> None:
        """The end of ``kvm_gmem_get_pfn``: the file is kept no longer, before the page is used."""

        def found(w: Cells, t: int) -> str | None:
            return None if w[THREAD[t] + T_SLOT] else "leave"

        if not self._pins:
            self._step("drop the file", self._put_file)
        self._step("was a page found?", found, quiet=True)

    def _install_mapping(self, v: int, s: int) -> None:
        """``kvm_tdp_mmu_map`` under mmu_lock, unless ``is_page_fault_stale``."""
        floor = self.floor

        def install(w: Cells, t: int) -> str | None:
            vm = VM[v]
            stale = (
                w[vm + V_INVALIDATING] != NONE_IN_PROGRESS
                or w[vm + V_SEQUENCE] != w[THREAD[t] + T_SEEN]
            )
            if stale and floor.has(Protection.RETRY):
                return None
            if floor.use_slot(w, s):
                w[SLOT[s] + S_MAPPING] = w[THREAD[t] + T_SLOT]
                floor.check_mappings(w)
            return None

        self._step("install the mapping", install)

    def _populate(self, task: Task) -> None:
        """``kvm_gmem_populate``: the page is looked up and filled under the invalidate lock."""
        v, s = task.vm, task.slot

        def lookup(w: Cells, _t: int) -> str | None:
            visible = w[SLOT[s] + S_STATE] == S_VISIBLE and w[SLOT[s] + S_VM] == v + 1
            return None if visible else "leave"

        def leave(w: Cells, t: int) -> str | None:
            w[THREAD[t] + T_READS] = 0
            return None

        self._enter(v)
        self._lock_slots(v)
        self._step("look the slot up", lookup)
        self._get_file(s)
        self._lock_inode()
        self._find_page(s)
        if self.locking is Locking.NEWEST and not self.floor.has(Protection.FETCH_ONCE):
            self._lock_inode_shared()
            self._find_page(s)
            self._unlock_inode_shared()
        self._unlock_inode()
        if not self._pins:
            self._step("drop the file", self._put_file)
        self._label("leave")
        self._step("leave RCU", leave, quiet=True)
        self._unlock_slots(v)

    def _punch(self, task: Task) -> None:
        f = task.file
        floor = self.floor

        def fget(w: Cells, t: int) -> str | None:
            if not w[FILE[f] + F_FD]:
                return "end"
            w[FILE[f] + F_REFS] += 1
            w[THREAD[t] + T_FILE] = f + 1
            return None

        def truncate(w: Cells, _t: int) -> str | None:
            floor.give_pages_back(w, w[FILE[f] + F_INODE])
            return None

        self._step("fget the file", fget)
        self._lock_inode()
        self._step("invalidate: begin, zap", self._invalidate_begin(f, BOTH_PAGES))
        self._step("give the pages back", truncate)
        self._step("invalidate: end", self._invalidate_end(f, BOTH_PAGES))
        self._unlock_inode()
        self._step("drop the file", self._put_file)

    def _memory_error(self, task: Task) -> None:
        """``kvm_gmem_error_folio``: no reference on a file or a VM, and the lock is shared.

        Of a page of inode0, which is what every start has.
        """

        def find(w: Cells, _t: int) -> str | None:
            return None if w[INODE[0] + I_FILES] else "end"

        self._step("find the page's inode", find)
        self._lock_inode_shared(0)
        self._step("invalidate: begin, zap", self._invalidate_begin(None, task.pages))
        self._step("invalidate: end", self._invalidate_end(None, task.pages))
        self._unlock_inode_shared(0)

    def _bound_files(self, w: Cells, f: int | None, pages: int) -> list[int]:
        """The files of this one's inode that have a binding in a range; None: of inode0."""
        inode = 0 if f is None else w[FILE[f] + F_INODE]
        if w[INODE[inode] + I_CHANGING]:
            self.floor.harm(Harm.LIST_CHANGED)
        return [
            each
            for each, at in enumerate(FILE)
            if w[at + F_STATE] == F_LIVE
            and w[at + F_INODE] == inode
            and self.floor.bound_slots(w, each, pages)
        ]

    def _invalidate_begin(self, f: int | None, pages: int) -> Body:
        """``__kvm_gmem_invalidate_start`` for each file: begun once, however many slots it has."""

        def body(w: Cells, _t: int) -> str | None:
            for each in self._bound_files(w, f, pages):
                v = w[FILE[each] + F_VM] - 1
                if self.floor.use_vm(w, v):
                    w[VM[v] + V_INVALIDATING] += 1
                    for s in self.floor.bound_slots(w, each, pages):
                        self.floor.zap(w, s)
            return None

        return body

    def _invalidate_end(self, f: int | None, pages: int) -> Body:
        def body(w: Cells, _t: int) -> str | None:
            for each in self._bound_files(w, f, pages):
                v = w[FILE[each] + F_VM] - 1
                if self.floor.use_vm(w, v):
                    w[VM[v] + V_INVALIDATING] -= 1
                    w[VM[v] + V_SEQUENCE] += 1
            return None

        return body
