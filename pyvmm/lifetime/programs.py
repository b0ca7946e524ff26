# SPDX-License-Identifier: MIT
"""Operations as steps under locks: Linux 7.3's, v11's, and the mail's proposal.

A step is atomic; between two steps any other thread may run. Steps follow the kernel's functions,
named beside each; what only prepares or accounts is left out. The release of a file whose last
reference goes inside a system call runs at its end (``fput`` defers it), when no lock is held.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pyvmm.lifetime.endings import Endings, Program
from pyvmm.lifetime.locks import (
    BLOCKED,
    F_BINDING,
    F_FD,
    F_FREED,
    F_INODE,
    F_LIVE,
    F_REFS,
    F_STATE,
    F_VM,
    FILE,
    I_FILES,
    INODE,
    NONE_IN_PROGRESS,
    RCU,
    S_FILE,
    S_INVALID,
    S_MAPPING,
    S_NEW,
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
    V_FD,
    V_INVALIDATING,
    V_SEQUENCE,
    VM,
    Body,
    Cells,
    Harm,
    Protection,
)


class Act(enum.Enum):
    """Operation that a thread does."""

    BIND = "bind"
    UNBIND = "unbind"
    CLOSE_FILE = "close-file"
    CLOSE_VM = "close-vm"
    GUEST = "guest-access"
    PUNCH = "punch-hole"
    MEMORY_ERROR = "memory-error"


@dataclass(frozen=True, slots=True)
class Task:
    """An act with its objects; those that it does not need are 0."""

    act: Act
    vm: int = 0
    slot: int = 0
    file: int = 0

    def __str__(self) -> str:
        if self.act is Act.BIND:
            return f"bind slot{self.slot} of vm{self.vm} to file{self.file}"
        if self.act in (Act.UNBIND, Act.GUEST):
            return f"{self.act.value} slot{self.slot} of vm{self.vm}"
        return (
            f"{self.act.value} vm{self.vm}"
            if self.act is Act.CLOSE_VM
            else (f"{self.act.value} file{self.file}")
        )


class Writer(Endings):
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
        }[task.act](task)
        self._tail()
        names, bodies = zip(*self._steps, strict=True)
        end = len(names)
        return Program(names, bodies, {**self._labels, "end": end}, end)

    # Programs

    def _bind(self, task: Task) -> None:
        v, s, f = task.vm, task.slot, task.file
        floor = self.floor

        def fget(w: Cells, t: int) -> str | None:
            if w[SLOT[s] + S_STATE] or not w[FILE[f] + F_FD]:
                return "refused"
            w[FILE[f] + F_REFS] += 1
            w[THREAD[t] + T_FILE] = f + 1
            if not self._pins and w[FILE[f] + F_VM] != v + 1:
                floor.put_file(w, t, f)
                return "refused"
            return None

        def prepare(w: Cells, _t: int) -> str | None:
            w[SLOT[s] : SLOT[s] + 4] = [S_NEW, v + 1, f + 1, 0]
            return None

        def look(w: Cells, t: int) -> str | None:
            floor.use_bindings(w, f)
            taken = w[FILE[f] + F_BINDING] or w[FILE[f] + F_VM] not in (0, v + 1)
            w[THREAD[t] + T_SEEN] = 1 if taken else 0
            return None

        def store(w: Cells, t: int) -> str | None:
            if w[THREAD[t] + T_SEEN]:
                return None
            w[FILE[f] + F_BINDING] = s + 1
            w[FILE[f] + F_VM] = v + 1
            return None

        def publish(w: Cells, t: int) -> str | None:
            if w[THREAD[t] + T_SEEN]:
                w[SLOT[s] : SLOT[s] + 4] = [0, 0, 0, 0]
                floor.put_file(w, t, f)
                return "refused"
            if w[SLOT[s] + S_STATE] != S_NEW:
                floor.harm(Harm.DOUBLE_FREE)
            w[SLOT[s] + S_STATE] = S_VISIBLE
            return None

        def fput(w: Cells, t: int) -> str | None:
            if not self._pins:
                floor.put_file(w, t, f)
            return None

        self._enter(v)
        self._lock_slots(v)
        self._step("fget the file", fget)
        self._step("prepare the slot", prepare)
        self._lock_inode()
        self._step("look for a binding", look)
        self._step("store the binding", store)
        self._unlock_inode()
        self._step("make the slot visible", publish)
        self._step("drop the file" if not self._pins else "keep the file", fput)
        self._label("refused")
        self._unlock_slots(v)

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

        def free(w: Cells, _t: int) -> str | None:
            floor.free_slot(w, s)
            return None

        self._enter(v)
        self._lock_slots(v)
        self._step("make the slot invalid", invalidate)
        self._grace("synchronize_srcu", Protection.SRCU_GRACE, SRCU)
        self._step("zap the slot", zap)
        self._gmem_unbind(s, "")
        self._step("free the slot", free)
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

    def _guest(self, task: Task) -> None:
        v, s = task.vm, task.slot
        floor = self.floor
        at = SLOT[s]

        def lookup(w: Cells, t: int) -> str | None:
            w[THREAD[t] + T_READS] = SRCU
            if w[at + S_STATE] != S_VISIBLE or w[at + S_VM] != v + 1:
                return "leave"
            w[THREAD[t] + T_SLOT] = s + 1
            w[THREAD[t] + T_SEEN] = w[VM[v] + V_SEQUENCE]
            return None

        def load(w: Cells, t: int) -> str | None:
            if not floor.use_slot(w, s) or not w[at + S_FILE]:
                return "leave"
            w[THREAD[t] + T_FILE] = w[at + S_FILE]
            if not self._pins:
                w[THREAD[t] + T_READS] = SRCU | RCU
            return None

        def get(w: Cells, t: int) -> str | None:
            f = FILE[w[THREAD[t] + T_FILE] - 1]
            w[THREAD[t] + T_READS] = SRCU
            if w[f + F_STATE] == F_FREED and not floor.has(Protection.FILE_MEMORY):
                floor.harm(Harm.FREED_FILE)
            if not self._pins:
                if not w[f + F_REFS] and floor.has(Protection.UNLESS_ZERO):
                    return "leave"
                w[f + F_REFS] += 1
            return None

        def unget(w: Cells, t: int) -> str | None:
            if not self._pins:
                floor.put_file(w, t, w[THREAD[t] + T_FILE] - 1)
            return None

        def leave(w: Cells, t: int) -> str | None:
            w[THREAD[t] + T_READS] = 0
            return None

        self._enter(v)
        self._step("enter srcu, look the slot up", lookup)
        self._step("load the slot's file", load)
        self._step("get the file" if not self._pins else "use the file", get)
        self._map_page(v, s)
        self._label("unget")
        self._step("drop the file" if not self._pins else "done with the file", unget)
        self._label("leave")
        self._step("leave srcu", leave)

    def _map_page(self, v: int, s: int) -> None:
        """``__kvm_gmem_get_pfn``, then the mapping under mmu_lock unless it is stale."""
        floor = self.floor
        at = SLOT[s]

        def find(w: Cells, t: int) -> str | None:
            f = w[THREAD[t] + T_FILE] - 1
            floor.use_slot(w, s)
            if w[FILE[f] + F_STATE] == F_FREED:
                floor.harm(Harm.FREED_FILE)
            elif not floor.use_bindings(w, f) or w[FILE[f] + F_BINDING] != s + 1:
                return "unget"
            w[THREAD[t] + T_SLOT] = floor.page(w, w[FILE[f] + F_INODE])
            return None

        def install(w: Cells, t: int) -> str | None:
            vm = VM[v]
            stale = (
                w[vm + V_INVALIDATING] != NONE_IN_PROGRESS
                or w[vm + V_SEQUENCE] != w[THREAD[t] + T_SEEN]
            )
            if stale and floor.has(Protection.RETRY):
                return None
            if floor.use_slot(w, s):
                w[at + S_MAPPING] = w[THREAD[t] + T_SLOT]
                floor.check_mappings(w)
            return None

        self._step("find the page", find)
        self._step("install the mapping", install)

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
            floor.give_page_back(w, w[FILE[f] + F_INODE])
            return None

        def fput(w: Cells, t: int) -> str | None:
            floor.put_file(w, t, f)
            return None

        self._step("fget the file", fget)
        self._lock_inode()
        self._step("invalidate: begin, zap", self._invalidate_begin(f))
        self._step("give the pages back", truncate)
        self._step("invalidate: end", self._invalidate_end(f))
        self._unlock_inode()
        self._step("drop the file", fput)

    def _memory_error(self, task: Task) -> None:
        """``kvm_gmem_error_folio``: no reference on a file or a VM, and the lock is shared."""
        f = task.file
        floor = self.floor

        def find(w: Cells, _t: int) -> str | None:
            return None if w[INODE[w[FILE[f] + F_INODE]] + I_FILES] else "end"

        def lock(w: Cells, t: int) -> str | None:
            inode = INODE[w[FILE[f] + F_INODE]]
            return None if floor.take_shared(w, inode, t) else BLOCKED

        def unlock(w: Cells, t: int) -> str | None:
            floor.give_shared(w, INODE[w[FILE[f] + F_INODE]], t)
            return None

        self._step("find the page's inode", find)
        self._step("lock the invalidate lock, shared", lock)
        self._step("invalidate: begin, zap", self._invalidate_begin(f))
        self._step("invalidate: end", self._invalidate_end(f))
        self._step("unlock the invalidate lock, shared", unlock)

    def _bound_files(self, w: Cells, f: int) -> list[int]:
        """The files of this one's inode that have a binding."""
        inode = w[FILE[f] + F_INODE]
        return [
            each
            for each, at in enumerate(FILE)
            if w[at + F_STATE] == F_LIVE and w[at + F_INODE] == inode and w[at + F_BINDING]
        ]

    def _invalidate_begin(self, f: int) -> Body:
        def body(w: Cells, _t: int) -> str | None:
            for each in self._bound_files(w, f):
                v = w[FILE[each] + F_VM] - 1
                if self.floor.use_vm(w, v):
                    w[VM[v] + V_INVALIDATING] += 1
                    self.floor.zap(w, w[FILE[each] + F_BINDING] - 1)
            return None

        return body

    def _invalidate_end(self, f: int) -> Body:
        def body(w: Cells, _t: int) -> str | None:
            for each in self._bound_files(w, f):
                v = w[FILE[each] + F_VM] - 1
                if self.floor.use_vm(w, v):
                    w[VM[v] + V_INVALIDATING] -= 1
                    w[VM[v] + V_SEQUENCE] += 1
            return None

        return body
