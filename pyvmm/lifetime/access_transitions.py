# SPDX-License-Identifier: MIT
"""Accesses of guests and of the host, and holes."""

from __future__ import annotations

from collections.abc import Mapping

from pyvmm.lifetime.layout import (
    ALIVE,
    FILE_HANDLES,
    FILE_INODE,
    INODE_TAGS,
    SLOT_FILE,
    SLOT_MAPPING,
    SLOT_PAGE,
    VM_MACHINE,
    Cells,
)
from pyvmm.lifetime.operations import Kind, Operation
from pyvmm.lifetime.parts import OK, Do, Part
from pyvmm.lifetime.questions import FILE_FLAGS, Serving, host_sees, served, why_not_served
from pyvmm.rules.abi import PAGE_SIZE
from pyvmm.rules.lifecycle import Event
from pyvmm.rules.rule import Refusal


class Accesses(Part):
    """Contents of pages: who reads, writes and clears them."""

    def table(self) -> Mapping[Kind, Do]:
        """Functions by the kinds that they do."""
        return {
            Kind.GUEST_READ: self._guest_read,
            Kind.GUEST_WRITE: self._guest_write,
            Kind.HOST_READ: self._host_read,
            Kind.PUNCH: self._punch,
            Kind.PAGE_ERROR: self._page_error,
        }

    def _guest_read(self, cells: Cells, op: Operation) -> str | None:
        v = self.running(cells, op.slot)
        return None if v is None else self._access(cells, op.slot, write=False)

    def _guest_write(self, cells: Cells, op: Operation) -> str | None:
        v = self.running(cells, op.slot)
        return None if v is None else self._access(cells, op.slot, write=True)

    def _access(self, cells: Cells, s: int, *, write: bool) -> str | None:
        layout = self.layout
        at = layout.slot[s]
        mapping = cells[at + SLOT_MAPPING]
        if not mapping:
            offset = served(self._serving(cells, s, write=write))
            if isinstance(offset, str):
                return offset
            f = cells[at + SLOT_FILE] - 1
            inode = cells[layout.file[f] + FILE_INODE] - 1
            mapping = 1 + inode * self.universe.pages + offset // PAGE_SIZE
        inode, page = divmod(mapping - 1, self.universe.pages)
        tag_at = layout.inode[inode] + INODE_TAGS + page
        if write:
            if not cells[tag_at] and self.bodies.secrets(cells) >= self.universe.secrets:
                return None
            cells[tag_at] = cells[layout.vm[cells[at] - 1] + VM_MACHINE]
            if layout.inherited >= 0:
                cells[layout.inode[inode] + layout.inherited + page] = 0
        cells[at + SLOT_MAPPING] = mapping
        return OK if write else self._sees(cells[tag_at])

    def _serving(self, cells: Cells, s: int, *, write: bool) -> Serving:
        """The question to the rules that an access is where nothing is mapped yet."""
        at = self.layout.slot[s]
        f = cells[at + SLOT_FILE] - 1
        flags = self.flags_of(cells, f) if f >= 0 else FILE_FLAGS
        private = self.is_private(cells, cells[at] - 1)
        page = cells[at + SLOT_PAGE]
        poisoned = f >= 0 and self._is_poisoned(cells, f, page)
        return Serving(f >= 0, page, write, flags, private, poisoned)

    def why_not_served(self, cells: Cells, op: Operation) -> Refusal | None:
        """The rule by which a guest's access faults; None where it does not, or cannot be."""
        if self.running(cells, op.slot) is None or cells[self.layout.slot[op.slot] + SLOT_MAPPING]:
            return None
        return why_not_served(self._serving(cells, op.slot, write=op.kind is Kind.GUEST_WRITE))

    def _host_read(self, cells: Cells, op: Operation) -> str | None:
        at = self.layout.file[op.file]
        p = self.layout.mappings
        if not any(cells[at + p : at + p + self.universe.processes]):
            return None
        flags, poisoned = self.flags_of(cells, op.file), self._is_poisoned(cells, op.file, op.page)
        if not host_sees(op.page, self.universe.pages, flags, poisoned):
            return "SIGBUS"
        inode = self.layout.inode[cells[at + FILE_INODE] - 1]
        return self._sees(cells[inode + INODE_TAGS + op.page])

    def _punch(self, cells: Cells, op: Operation) -> str | None:
        at = self.layout.file[op.file]
        if not any(cells[at + FILE_HANDLES : at + FILE_HANDLES + self.universe.processes]):
            return None
        inode = cells[at + FILE_INODE] - 1
        self.bodies.run(Event.PUNCH_HOLE, cells, f=op.file, inode=inode, page=op.page)
        return OK

    def _page_error(self, cells: Cells, op: Operation) -> str | None:
        # A page that nobody has touched yet has no frame that could be bad. Touching it first makes
        # no difference here: it reads as zeroes either way.
        at = self.layout.file[op.file]
        if not cells[at + ALIVE] or self._is_poisoned(cells, op.file, op.page):
            return None
        inode = cells[at + FILE_INODE] - 1
        cells[self.layout.inode[inode] + self.layout.page_errors + op.page] = 1
        self.bodies.run(Event.PAGE_ERROR, cells, f=op.file, inode=inode, page=op.page)
        return OK

    def _is_poisoned(self, cells: Cells, f: int, page: int) -> bool:
        if self.layout.page_errors < 0:
            return False
        inode = self.layout.inode[cells[self.layout.file[f] + FILE_INODE] - 1]
        return bool(cells[inode + self.layout.page_errors + page])

    def _sees(self, tag: int) -> str:
        if not tag:
            return "zeroes"
        return "a freed VM's page" if tag == self.layout.ghost else f"vm{tag - 1}'s page"
