# SPDX-License-Identifier: MIT
"""Unbinding, and the steps after the last reference to a file or a VM is dropped."""

from __future__ import annotations

from pyvmm.lifetime.locks import (
    BOTH_PAGES,
    F_EMPTIED,
    F_LIVE,
    F_REFS,
    F_STATE,
    F_VM,
    FILE,
    NONE_IN_PROGRESS,
    RCU,
    S_FILE,
    S_MAPPING,
    S_PAGES,
    S_STATE,
    S_VISIBLE,
    S_VM,
    SLOT,
    SLOTS,
    T_DYING,
    T_FILE,
    T_HOLDS,
    T_PENDING,
    T_SLOT,
    THREAD,
    V_FREED,
    V_INVALIDATING,
    V_STATE,
    V_TORN,
    VM,
    VMS,
    Cells,
    Harm,
    Protection,
)
from pyvmm.lifetime.steps import Locking, Steps

_TAKE_THE_FILE = frozenset({Locking.V11, Locking.MAINLINE_BEFORE})
"""Designs whose unbinding takes a reference on the file, unless it is dying."""


class Endings(Steps):
    """Writes unbinding, and what follows a last reference: release and destruction."""

    def _gmem_unbind(self, s: int, suffix: str) -> None:
        """``kvm_gmem_unbind``."""
        at = SLOT[s]
        floor = self.floor
        done, dying = f"unbound{suffix}", f"dying{suffix}"

        def load(w: Cells, t: int) -> str | None:
            floor.use_slot(w, s)
            f = w[at + S_FILE]
            if not f:
                return done
            w[THREAD[t] + T_FILE] = f
            if self.locking in _TAKE_THE_FILE:  # kvm_gmem_get_file
                if not w[FILE[f - 1] + F_REFS]:
                    return done if self.locking is Locking.V11 else dying
                w[FILE[f - 1] + F_REFS] += 1
            return None

        def erase(w: Cells, t: int) -> str | None:
            f = w[THREAD[t] + T_FILE] - 1
            if floor.use_bindings(w, f):
                floor.bind(w, f, w[at + S_PAGES], 0)
            w[at + S_FILE] = 0
            return None

        self._step("load the slot's file", load)
        self._lock_inode()
        self._step("erase the binding", erase)
        if self._pins:
            self._forget_vm(suffix)
        if self.locking is Locking.V11:
            self._grace("synchronize_rcu", Protection.RCU_GRACE, RCU)
        self._unlock_inode()
        if self._pins or self.locking in _TAKE_THE_FILE:
            self._step("drop the file", self._put_file)
        if self.locking is Locking.MAINLINE_BEFORE:
            self._step("unbound", lambda _w, _t: done, quiet=True)
            self._label(dying)
            self._step("erase the binding, without a lock", erase)
        self._label(done)

    def _forget_vm(self, suffix: str) -> None:
        """The proposal's last unbinding."""
        left = f"bound{suffix}"

        def look(w: Cells, t: int) -> str | None:
            bound = self.floor.bound_slots(w, w[THREAD[t] + T_FILE] - 1, BOTH_PAGES)
            return left if bound else None

        def forget(w: Cells, t: int) -> str | None:
            w[FILE[w[THREAD[t] + T_FILE] - 1] + F_VM] = 0
            return None

        self._step("is a binding left?", look)
        self._step("clear the VM pointer", forget)
        self._label(left)

    # What the last references do

    def _tail(self) -> None:
        """``fput`` defers a release to the end of the system call, or to a kworker.

        The VM's own file is put there, too, and their order is not promised. A file that pins its
        VM is released before that is destroyed. Where none does, its release comes after.
        """
        if self._file_pins:
            self._leave_vm()
            self._release_pending()
            self._destroy()
        else:
            self._leave_vm()
            self._destroy()
            self._release_pending()

    @property
    def _file_pins(self) -> bool:
        return not self._pins and self.floor.has(Protection.FILE_PINS)

    def _leave_vm(self) -> None:
        def in_vm(w: Cells, t: int) -> str | None:
            return None if w[THREAD[t] + T_HOLDS] else "left"

        def leave(w: Cells, t: int) -> str | None:
            held = w[THREAD[t] + T_HOLDS]
            w[THREAD[t] + T_HOLDS] = 0
            self.floor.put_vm(w, t, held - 1)
            return None

        self._step("is the thread in a VM?", in_vm, quiet=True)
        self._step("leave the VM", leave)
        self._label("left")

    def _release_pending(self, suffix: str = "") -> None:
        """``kvm_gmem_release`` of the file whose last reference this thread has dropped."""
        done = f"released{suffix}"

        def pending(w: Cells, t: int) -> str | None:
            f = w[THREAD[t] + T_PENDING]
            if not f:
                return done
            w[THREAD[t] + T_FILE] = f
            w[THREAD[t] + T_PENDING] = 0
            return None

        self._step("is a file to be released?", pending, quiet=True)
        self._release(suffix)
        self._label(done)

    def _release(self, suffix: str) -> None:
        """``kvm_gmem_release``, and what ``__fput`` does after it."""
        zapped = f"zapped{suffix}"

        def look(w: Cells, t: int) -> str | None:
            return None if self._look_at_bindings(w, t) else zapped

        if self._slots_lock_first:
            self._lock_slots(None)
            self._lock_inode()
        elif not self._pins:
            self._lock_inode()
            self._lock_slots(None)
        if not self._pins:
            self._step("look at the bindings", look)
            self._step("clear the slots' file pointers", self._clear_pointers)
            if not self._slots_lock_first:
                self._grace("synchronize_rcu", Protection.RCU_GRACE, RCU)
            self._step("zap the bound slots", self._zap_bound)
            self._label(zapped)
            name = "leave the inode's list"
            self._change_list(name, self._leave_list, Protection.INVALIDATE_LOCK)
        if self._slots_lock_first:
            self._unlock_inode()
            self._unlock_slots(None)
        elif not self._pins:
            self._unlock_slots(None)
            self._unlock_inode()
        else:
            self._leave_list_only()
        self._step("free struct gmem_file", self._free_bindings)
        if self._file_pins:
            self._step("drop the VM", self._drop_vm)
        self._step("free struct file", self._free_file)

    def _leave_list_only(self) -> None:
        """All that is left to the proposal: who has no file walks the list, too (page errors)."""
        locked = self.floor.has(Protection.LIST_LOCK)
        if locked:
            self._lock_inode()
        protections = (Protection.INVALIDATE_LOCK, Protection.LIST_LOCK)
        self._change_list("leave the inode's list", self._leave_list, *protections)
        if locked:
            self._unlock_inode()

    def _look_at_bindings(self, w: Cells, t: int) -> bool:
        """Remember the bound slots, as a mask; False: there is none."""
        f = w[THREAD[t] + T_FILE] - 1
        self.floor.use_bindings(w, f)
        bound = self.floor.bound_slots(w, f, BOTH_PAGES)
        w[THREAD[t] + T_SLOT] = sum(1 << s for s in bound)
        return bool(bound)

    def _clear_pointers(self, w: Cells, t: int) -> str | None:
        for s in self._remembered(w, t):
            if self.floor.use_slot(w, s):
                w[SLOT[s] + S_FILE] = 0
        return None

    def _zap_bound(self, w: Cells, t: int) -> str | None:
        for s in self._remembered(w, t):
            self.floor.zap(w, s)
        return None

    def _remembered(self, w: Cells, t: int) -> list[int]:
        return [s for s in range(SLOTS) if w[THREAD[t] + T_SLOT] >> s & 1]

    def _leave_list(self, w: Cells, t: int) -> str | None:
        """From here on nobody finds the bindings through the inode or through a slot."""
        self.floor.bind(w, w[THREAD[t] + T_FILE] - 1, BOTH_PAGES, 0)
        return None

    def _free_bindings(self, w: Cells, t: int) -> str | None:
        f = w[THREAD[t] + T_FILE] - 1
        if w[FILE[f] + F_STATE] != F_LIVE:
            self.floor.harm(Harm.DOUBLE_FREE)
        if self._pins and self.floor.bound_slots(w, f, BOTH_PAGES):
            self.floor.harm(Harm.STALE_POINTER)
        w[FILE[f] + F_STATE] = F_EMPTIED
        self.floor.bind(w, f, BOTH_PAGES, 0)
        return None

    def _drop_vm(self, w: Cells, t: int) -> str | None:
        v = self._named(w, t)
        w[FILE[w[THREAD[t] + T_FILE] - 1] + F_VM] = 0
        self.floor.put_vm(w, t, v)
        return None

    def _free_file(self, w: Cells, t: int) -> str | None:
        self.floor.free_file(w, w[THREAD[t] + T_FILE] - 1)
        return None

    def _destroy(self) -> None:
        """``kvm_destroy_vm``: no slots_lock, as nobody else can reach the VM any more."""
        late = self._pins and not self.floor.has(Protection.SLOTS_FIRST)

        def dying(w: Cells, t: int) -> str | None:
            return None if w[THREAD[t] + T_DYING] else "destroyed"

        self._step("is a VM to be destroyed?", dying, quiet=True)
        if not self._pins or late:
            self._step("tear the MMU down", self._tear_down)
        for s, at in enumerate(SLOT):
            skip = f"next{s}"

            def owned(w: Cells, t: int, at: int = at, skip: str = skip) -> str | None:
                mine = w[at + S_STATE] == S_VISIBLE and w[at + S_VM] - 1 in self._dying(w, t)
                return None if mine else skip

            def zap(w: Cells, _t: int, s: int = s) -> str | None:
                self.floor.zap(w, s)
                return None

            def free(w: Cells, _t: int, s: int = s) -> str | None:
                self.floor.free_slot(w, s)
                return None

            # Nobody else can reach a slot of a dying VM, or make one its own.
            self._step(f"is slot{s} the VM's?", owned, quiet=True)
            if self._pins and not late:
                self._step("zap the slot", zap)
            self._gmem_unbind(s, f" {s}")
            self._step("free the slot", free)
            self._label(skip)
        self._step("free the VM", self._free_vm)
        self._label("destroyed")

    def _tear_down(self, w: Cells, t: int) -> str | None:
        """``kvm_arch_destroy_vm``: page tables go, and with them every mapping."""
        for v in self._dying(w, t):
            w[VM[v] + V_STATE] = V_TORN
        for at in SLOT:
            if w[at + S_VM] - 1 in self._dying(w, t):
                w[at + S_MAPPING] = 0
        return None

    def _dying(self, w: Cells, t: int) -> list[int]:
        """The VMs whose last reference this thread has dropped."""
        return [v for v in range(VMS) if w[THREAD[t] + T_DYING] >> v & 1]

    def _free_vm(self, w: Cells, t: int) -> str | None:
        for v in self._dying(w, t):
            if w[VM[v] + V_STATE] == V_FREED:
                self.floor.harm(Harm.DOUBLE_FREE)
            if w[VM[v] + V_INVALIDATING] != NONE_IN_PROGRESS:
                self.floor.harm(Harm.UNBALANCED)
            w[VM[v] + V_STATE] = V_FREED
        w[THREAD[t] + T_DYING] = 0
        return None
