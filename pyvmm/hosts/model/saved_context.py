# SPDX-License-Identifier: MIT
"""Taking the context of a saved processor, which may be anybody's, into an engine.

Beside registers QEMU keeps what follows from them, and believes it: hidden flags, the top of the
x87's stack as an index, a ``float_status`` for each unit (``include/fpu/softfloat-types.h``). A
context that contradicts itself would let the guest reach other memory of this process.
"""

from __future__ import annotations

import struct
from ctypes import byref, c_uint16, c_void_p

from pyvmm.errors import HostLacksError, UsageError
from pyvmm.hosts.model import unicorn_library as unicorn
from pyvmm.hosts.model.cpu_state import CpuState

_STATUS = struct.Struct("<bbBbBBBB")
"""Tininess, rounding mode, exceptions so far, precision, and four that are true or false."""
_STATUS_AT = (0, 24, 32)
"""Of x87, MMX and SSE, from the first one on; a register of 16 bytes is between two of them."""
_PRECISIONS = (0, 32, 64, 80)
_CONTROL_WORDS = (0x37F, 0xF7F)
"""The x87's control word as FNINIT sets it, and with another rounding mode."""


def take(context: c_void_p, state: CpuState, saved: bytes, intercepts: int) -> bool:
    """Make `state`, which is what `context` has, what `saved` is, but for its intercepts.

    Return True where it has any of `intercepts`, which the caller sets anew.
    Raises `UsageError` for one that no processor can have been saved with, and `HostLacksError`
    where Unicorn keeps its state in an unknown way; then it is what it was.
    """
    before = bytes(state.raw)
    try:
        _take(context, state, saved)
    except BaseException:
        state.raw[:] = before
        raise
    return state.intercepts(intercepts)


def _take(context: c_void_p, state: CpuState, saved: bytes) -> None:
    start = _statuses(context, state)
    state.raw[:] = saved
    state.derive()
    # The top of the stack is a part of the status word: to write it makes the index one.
    word = c_uint16()
    code = unicorn.library().uc_context_reg_read(context, unicorn.REG_FPSW, byref(word))
    unicorn.check(code, "read the status of x87 from a saved processor")
    _write(context, unicorn.REG_FPSW, word.value)
    if not all(_is_possible(state.raw, start + offset) for offset in _STATUS_AT):
        raise UsageError(
            "restore a vCPU", "no processor was ever saved with such x87 and SSE", "save it again"
        )


def _statuses(context: c_void_p, state: CpuState) -> int:
    """Offset of the first ``float_status``: the second byte of it is the rounding mode."""
    changed = 0
    for word in _CONTROL_WORDS:
        _write(context, unicorn.REG_FPCW, word)
        changed ^= int.from_bytes(state.raw, "little")
    # One byte of the control word itself, and behind it the rounding mode.
    status = (changed.bit_length() - 1) // 8 - 1
    if status < 0 or not _is_possible(state.raw, status):
        raise HostLacksError(
            "restore a state of the model",
            "this version of Unicorn keeps x87 in another way",
            "install Unicorn 2.1.4 or a later 2.1",
        )
    return status


def _is_possible(raw: memoryview, at: int) -> bool:
    tininess, rounding, _, precision, *booleans = _STATUS.unpack_from(raw, at)
    return (
        tininess in (0, 1)
        and rounding in range(4)
        and precision in _PRECISIONS
        and all(one in (0, 1) for one in booleans)
    )


def _write(context: c_void_p, register: int, word: int) -> None:
    code = unicorn.library().uc_context_reg_write(context, register, byref(c_uint16(word)))
    unicorn.check(code, f"set register {register} of a saved processor")
