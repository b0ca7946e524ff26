# SPDX-License-Identifier: MIT
"""Every rule of refusal, by operation: for documentation, and for checking that each is needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyvmm.rules.attributes import SET_ATTRIBUTES
from pyvmm.rules.creation import CREATE_GUEST_MEMFD, CREATE_VM
from pyvmm.rules.files import FALLOCATE, FILE_CALLS, MMAP
from pyvmm.rules.in_place import SET_FILE_ATTRIBUTES
from pyvmm.rules.memslots import SET_REGION
from pyvmm.rules.rule import Rule

REFUSALS: Mapping[str, tuple[Rule[Any], ...]] = {
    "KVM_CREATE_VM": CREATE_VM,
    "KVM_CREATE_GUEST_MEMFD": CREATE_GUEST_MEMFD,
    "KVM_SET_USER_MEMORY_REGION2": SET_REGION,
    "KVM_SET_MEMORY_ATTRIBUTES": SET_ATTRIBUTES,
    "KVM_SET_MEMORY_ATTRIBUTES2": SET_FILE_ATTRIBUTES,
    "fallocate": FALLOCATE,
    "mmap": MMAP,
    "read, write, lseek, ftruncate": FILE_CALLS,
}
"""Operation -> its rules in the kernel's order."""
