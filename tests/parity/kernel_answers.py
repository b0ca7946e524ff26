# SPDX-License-Identifier: MIT
"""Answers in which kernels differ and that no capability tells: read off the running kernel.

What KVM does when it is asked is what the tests are about, so that cannot tell them what to expect.
The names of its functions can (/proc/kallsyms), and the types of their parameters (BTF, where the
kernel has it).
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path

import pytest

from .kernel_types import FOLDER, KERNEL, Types
from .requirements import REQUIRED

ONE_STEP = "kvm_gmem_bind"
"""Binds a memslot in one step, and answers EINVAL for a range that another slot has."""
PREPARE, COMMIT = "kvm_gmem_prepare_memory_region", "kvm_gmem_commit_memory_region"
"""Bind in two, and answer EEXIST: there instead of `ONE_STEP`."""
OFFSET = 3
"""Which parameter of `ONE_STEP` and of `PREPARE` is the offset within the file.

Its type decides what a sum of offset and size above 2^63 is: EINVAL where that is unsigned. Where
it is signed the sum is negative, so within the file, and the slot is bound.
"""

SYMBOLS = Path("/proc/kallsyms")


@dataclass(frozen=True)
class KernelAnswers:
    """The errno of each answer, 0: it is done; None: it cannot be told without asking."""

    when_bound_twice: int | None
    when_offset_overflows: int | None

    @property
    def bound_twice(self) -> int:
        """Binding a range of a file that another slot has. Skips where that is not known.

        Fails there where private memory is required.
        """
        if self.when_bound_twice is None and "private" in REQUIRED:
            pytest.fail(_UNKNOWN)
        return _known(self.when_bound_twice)

    @property
    def offset_overflows(self) -> int:
        """Binding at an offset whose sum with the size exceeds 2^63. Skips where it is unknown."""
        return _known(self.when_offset_overflows)


_UNKNOWN = "what this kernel should answer is unknown: neither its symbols nor its types (BTF) tell"


def _known(answer: int | None) -> int:
    if answer is None:
        pytest.skip(_UNKNOWN)
    return answer


def read_answers(symbols: Path = SYMBOLS, types: Path = FOLDER) -> KernelAnswers:
    """Those of the running kernel, or of one that is described by such files."""
    names = _names(symbols)
    if COMMIT in names:
        # A kernel without BTF: the offset had become unsigned before this function came.
        unsigned = _is_offset_unsigned(types, PREPARE)
        return KernelAnswers(errno.EEXIST, 0 if unsigned is False else errno.EINVAL)
    if ONE_STEP in names:
        # It was signed to begin with; the change is a fix that any kernel may have got since.
        unsigned = _is_offset_unsigned(types, ONE_STEP)
        overflows = None if unsigned is None else errno.EINVAL if unsigned else 0
        return KernelAnswers(errno.EINVAL, overflows)
    return KernelAnswers(None, None)


def _names(symbols: Path) -> set[str]:
    """The functions of guest_memfd that are there, modules' too."""
    try:
        with symbols.open(encoding="ascii") as lines:
            return {line.split()[2] for line in lines if " kvm_gmem_" in line}
    except OSError:
        return set()


def _is_offset_unsigned(types: Path, function: str) -> bool | None:
    for file in (KERNEL, "kvm"):
        try:
            is_signed = Types(types, file).parameter_is_signed(function, OFFSET)
        except OSError:
            continue
        if is_signed is not None:
            return not is_signed
    return None
