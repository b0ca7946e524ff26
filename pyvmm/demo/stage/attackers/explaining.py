# SPDX-License-Identifier: MIT
"""Rules behind the errnos that close a road."""

from __future__ import annotations

import os

from pyvmm.demo.telling.acts import Road
from pyvmm.demo.telling.outcomes import Explained, Seen
from pyvmm.lifetime.questions import Binding, why_not_bound
from pyvmm.rules.abi import PAGE_SIZE
from pyvmm.rules.catalogue import REFUSALS
from pyvmm.rules.files import FileCall, Mmap, file_call, mmap
from pyvmm.rules.profile import MAINLINE
from pyvmm.rules.rule import Refusal

_OTHERS = Binding(0, 0, 1, vm=2, of=1, occupied=(), bound=(0,), flags=0, private_vm=True)
"""A page of another VM's file, bound there, which a VM wants to have too."""


def explained(seen: Seen) -> Explained | None:
    """The rule that gives the errno; None where the road was not closed by one."""
    if not seen.errno:
        return None
    refusal = _by_rule(seen.road)
    if refusal is None:  # No rule is about it: the kernel's word is all that there is.
        return Explained("", os.strerror(seen.errno), "")
    if refusal.errno != seen.errno:
        return Explained("", f"the rules say otherwise: {refusal.cause}", "")
    sources = {rule.name: rule.source for rules in REFUSALS.values() for rule in rules}
    return Explained(refusal.rule, refusal.cause, sources.get(refusal.rule, ""))


def _by_rule(road: Road) -> Refusal | None:
    match road:
        case Road.FILE_READ:
            return file_call(FileCall("pread"), MAINLINE)
        case Road.FILE_MMAP:
            return mmap(Mmap(0, PAGE_SIZE, True, 0), MAINLINE)
        case Road.OTHER_VM:
            return why_not_bound(MAINLINE, _OTHERS)
        case _:
            return None
