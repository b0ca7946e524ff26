# SPDX-License-Identifier: MIT
"""Lockings, programs, and the steps that take and give locks and wait for readers."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pyvmm.lifetime.locks import (
    BLOCKED,
    F_FREED,
    F_INODE,
    F_STATE,
    F_VM,
    FILE,
    I_CHANGING,
    I_LOCK,
    I_SHARERS,
    INODE,
    T_FILE,
    T_HOLDS,
    T_WAITS,
    THREAD,
    V_FD,
    V_LOCK,
    V_REFS,
    V_VCPU,
    VM,
    Body,
    Cells,
    Floor,
    Harm,
    Protection,
)


class Locking(enum.Enum):
    """Kernel code or design whose steps are followed."""

    MAINLINE = "file-pins-vm, mainline: slots_lock, then the invalidate lock"
    MAINLINE_BEFORE = (
        "file-pins-vm, 6.8 to 7.0: a dying file is unbound without the invalidate lock"
    )
    NEWEST = "file-pins-vm, newest (not merged): a fault shares the invalidate lock"
    V11 = "file-pins-vm, v11: the invalidate lock, then slots_lock; unbinding skips a dying file"
    V11_ORDER = "file-pins-vm, v11's lock order with mainline's unbinding"
    PROPOSAL = "memslot-pins-file"


@dataclass(frozen=True, slots=True)
class Program:
    """A task's steps: name, body, and where each label is.

    A quiet step commutes with all that others can do before it: it looks only at what is its
    thread's own, or gives back what others wait for. It is done at once with the step before it.
    """

    names: tuple[str, ...]
    bodies: tuple[Body, ...]
    quiet: tuple[bool, ...]
    labels: dict[str, int]
    end: int
    """Position of a thread that is done."""

    def tells(self, at: int) -> bool:
        """Tell whether a schedule tells a step: not the questions that a thread asks itself."""
        return not (self.quiet[at] and self.names[at].endswith("?"))


class Steps:
    """Writes steps over a floor: locks and graces."""

    def __init__(self, locking: Locking, floor: Floor) -> None:
        self.locking = locking
        self.floor = floor
        self._steps: list[tuple[str, Body, bool]] = []
        self._labels: dict[str, int] = {}

    def _step(self, name: str, body: Body, *, quiet: bool = False) -> None:
        self._steps.append((name, body, quiet))

    def _label(self, name: str) -> None:
        self._labels[name] = len(self._steps)

    @property
    def _slots_lock_first(self) -> bool:
        return self.locking in (Locking.MAINLINE, Locking.MAINLINE_BEFORE, Locking.NEWEST)

    @property
    def _binds_first(self) -> bool:
        """Up to 7.0: bindings are stored before what else the slot needs is prepared."""
        return self.locking in (Locking.MAINLINE_BEFORE, Locking.V11, Locking.V11_ORDER)

    @property
    def _pins(self) -> bool:
        return self.locking is Locking.PROPOSAL

    # Locks and graces

    def _lock_slots(self, v: int | None) -> None:
        """Of this VM; None: of the one that the thread's file names."""

        def body(w: Cells, t: int) -> str | None:
            own = self._named(w, t) if v is None else v
            if not self.floor.use_vm(w, own):
                return None
            taken = self.floor.take(w, VM[own] + V_LOCK, t, Protection.SLOTS_LOCK)
            return None if taken else BLOCKED

        self._step("lock slots_lock", body)

    def _named(self, w: Cells, t: int) -> int:
        """The VM that the thread's file names."""
        return w[FILE[w[THREAD[t] + T_FILE] - 1] + F_VM] - 1

    def _unlock_slots(self, v: int | None) -> None:
        def body(w: Cells, t: int) -> str | None:
            own = self._named(w, t) if v is None else v
            self.floor.give(w, VM[own] + V_LOCK, t)
            return None

        self._step("unlock slots_lock", body, quiet=True)

    def _lock_inode(self) -> None:
        def body(w: Cells, t: int) -> str | None:
            f = w[THREAD[t] + T_FILE] - 1
            if w[FILE[f] + F_STATE] == F_FREED:
                self.floor.harm(Harm.FREED_FILE)
            inode = INODE[w[FILE[f] + F_INODE]]
            if w[inode + I_SHARERS] & ~(1 << t):
                return BLOCKED
            taken = self.floor.take(w, inode + I_LOCK, t, Protection.INVALIDATE_LOCK)
            return None if taken else BLOCKED

        self._step("lock the invalidate lock", body)

    def _unlock_inode(self) -> None:
        def body(w: Cells, t: int) -> str | None:
            self.floor.give(w, INODE[self._inode_of(w, t)] + I_LOCK, t)
            return None

        self._step("unlock the invalidate lock", body, quiet=True)

    def _lock_inode_shared(self, inode: int | None = None) -> None:
        """Of this inode; None: of the thread's file."""

        def body(w: Cells, t: int) -> str | None:
            own = self._inode_of(w, t) if inode is None else inode
            if inode is None and w[FILE[w[THREAD[t] + T_FILE] - 1] + F_STATE] == F_FREED:
                self.floor.harm(Harm.FREED_FILE)
            return None if self.floor.take_shared(w, INODE[own], t) else BLOCKED

        self._step("lock the invalidate lock, shared", body)

    def _unlock_inode_shared(self, inode: int | None = None) -> None:
        def body(w: Cells, t: int) -> str | None:
            own = self._inode_of(w, t) if inode is None else inode
            self.floor.give_shared(w, INODE[own], t)
            return None

        self._step("unlock the invalidate lock, shared", body, quiet=True)

    def _inode_of(self, w: Cells, t: int) -> int:
        """The inode of the thread's file."""
        return w[FILE[w[THREAD[t] + T_FILE] - 1] + F_INODE]

    def _change_list(self, name: str, body: Body, *protections: Protection) -> None:
        """A step that changes an inode's list of files: two where nothing keeps others away."""

        def begin(w: Cells, t: int) -> str | None:
            w[INODE[self._inode_of(w, t)] + I_CHANGING] += 1
            return None

        def end(w: Cells, t: int) -> str | None:
            w[INODE[self._inode_of(w, t)] + I_CHANGING] -= 1
            return body(w, t)

        if self.floor.held.issuperset(protections):
            self._step(name, body)
            return
        self._step(f"{name}: begin", begin)
        self._step(f"{name}: end", end)

    def _put_file(self, w: Cells, t: int) -> str | None:
        """Body of a step: ``fput`` the thread's file."""
        self.floor.put_file(w, t, w[THREAD[t] + T_FILE] - 1)
        return None

    def _grace(self, what: str, protection: Protection, section: int) -> None:
        def begin(w: Cells, t: int) -> str | None:
            if self.floor.has(protection):
                w[THREAD[t] + T_WAITS] = self.floor.readers(w, t, section)
            return None

        def wait(w: Cells, t: int) -> str | None:
            if w[THREAD[t] + T_WAITS] & self.floor.readers(w, t, section):
                return BLOCKED
            w[THREAD[t] + T_WAITS] = 0
            return None

        self._step(f"{what}: begin", begin)
        self._step(f"{what}: all earlier readers are gone", wait)

    def _enter(self, v: int, *, by_vcpu: bool = False) -> None:
        """A system call on the VM's descriptor, or a vCPU's: the VM stays for as long."""

        def body(w: Cells, t: int) -> str | None:
            if not (w[VM[v] + V_FD] or (by_vcpu and w[VM[v] + V_VCPU])):
                return "end"
            w[VM[v] + V_REFS] += 1
            w[THREAD[t] + T_HOLDS] = v + 1
            return None

        self._step("enter the VM", body)
