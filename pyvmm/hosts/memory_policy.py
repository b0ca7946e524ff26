# SPDX-License-Identifier: MIT
"""Memory policies of this process's mappings: mbind(2), get_mempolicy(2).

A policy of a shared mapping is its file's, for the same part of it, where the file system keeps it
(shmem does, a guest_memfd since its operations have ``set_policy``); elsewhere it is the mapping's
own, and pages are taken without regard to it.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import os
import platform
import threading
from collections.abc import Iterable
from typing import NamedTuple

from pyvmm.errors import HostLacksError, NoPermissionError, PyvmmError, SystemCallError
from pyvmm.hosts.call_fields import range_fields
from pyvmm.hosts.call_record import Made, Recorder, SystemCall, number_field

_BITS = 1024
"""Of a mask of nodes: the most that Linux can be built for on x86 (CONFIG_NODES_SHIFT)."""
_LONGS = _BITS // (8 * ctypes.sizeof(ctypes.c_ulong))
_MASK = ctypes.c_ulong * _LONGS
_MASK_BITS = ctypes.c_ulong(_BITS + 1)
"""The kernel takes one bit less than it is told of."""
_ADDRESS, _ALLOWED = 2, 4
"""MPOL_F_ADDR, MPOL_F_MEMS_ALLOWED."""
_NUMBERS = {"x86_64": (237, 239)}
"""Numbers of mbind and get_mempolicy, which the C library has no functions for."""


class Mode(enum.IntEnum):
    """Modes of a policy (linux/mempolicy.h)."""

    DEFAULT = 0
    PREFERRED = 1
    BIND = 2
    INTERLEAVE = 3
    LOCAL = 4


class Policy(NamedTuple):
    """`mode` is a number, since a kernel may know more of them than `Mode`; `nodes` ascend."""

    mode: int
    nodes: tuple[int, ...] = ()


def set_policy(address: int, size: int, policy: Policy, recorder: Recorder | None = None) -> None:
    """Set the policy of `size` bytes, whole pages, from the host virtual address `address` on.

    Pages that are there already stay where they are. `recorder` is told of the call. Raises
    `HostLacksError` for a kernel without policies, `NoPermissionError`, `SystemCallError` (EINVAL:
    none of the nodes can be used).
    """
    mask = _MASK()
    for node in policy.nodes:
        mask[node // 64] |= 1 << node % 64
    attempt = f"set the memory policy of {size} bytes"
    call, _ = _numbers(attempt)
    where = (ctypes.c_void_p(address), ctypes.c_ulong(size))
    number = _made(call, *where, ctypes.c_long(policy.mode), mask, _MASK_BITS, ctypes.c_long(0))
    if recorder is not None:
        recorder.call(_record(address, size, policy, number))
    if number:
        raise _refused(attempt, number)


def policy_at(address: int) -> Policy:
    """The policy by which a page at the host virtual address `address` is taken.

    Raises `HostLacksError`, `NoPermissionError`, `SystemCallError`.
    """
    mode, mask = ctypes.c_int(), _MASK()
    _ask(mode, mask, address, _ADDRESS)
    return Policy(mode.value, _nodes(mask))


def allowed_nodes() -> tuple[int, ...]:
    """The nodes of the host's that this process may take memory of. Raises as `policy_at`."""
    mask = _MASK()
    _ask(None, mask, 0, _ALLOWED)
    return _nodes(mask)


def _ask(
    mode: ctypes.c_int | None, mask: ctypes.Array[ctypes.c_ulong], address: int, flags: int
) -> None:
    attempt = "ask for a memory policy"
    _, call = _numbers(attempt)
    where = None if mode is None else ctypes.byref(mode)
    at = ctypes.c_void_p(address)
    number = _made(call, where, mask, _MASK_BITS, at, ctypes.c_ulong(flags))
    if number:
        raise _refused(attempt, number)


def _nodes(mask: Iterable[int]) -> tuple[int, ...]:
    return tuple(
        64 * index + bit for index, word in enumerate(mask) for bit in range(64) if word >> bit & 1
    )


def _numbers(attempt: str) -> tuple[int, int]:
    try:
        return _NUMBERS[platform.machine()]
    except KeyError:
        raise _lacks(attempt) from None


def _made(call: int, *arguments: object) -> int:
    """Make a system call; 0, or its errno."""
    libc = ctypes.CDLL(None, use_errno=True)
    return ctypes.get_errno() if libc.syscall(ctypes.c_long(call), *arguments) < 0 else 0


def _record(address: int, size: int, policy: Policy, number: int) -> SystemCall:
    mode = Mode(policy.mode)
    nodes = sum(1 << node for node in policy.nodes)
    return SystemCall(
        made=Made.KERNEL,
        name="mbind",
        request=f"MPOL_{mode.name}",
        target="memory",
        structure="",
        given=(
            *range_fields("address", address, size),
            number_field("nodemask", nodes, _BITS // 8, ", ".join(map(str, policy.nodes))),
        ),
        returned=(),
        result=-1 if number else 0,
        errno=number,
        section="mbind(2)",
        thread=threading.current_thread().name,
    )


def _lacks(attempt: str) -> HostLacksError:
    return HostLacksError(
        attempt, "the host's kernel has no memory policies", "use one with CONFIG_NUMA"
    )


def _refused(attempt: str, number: int) -> PyvmmError:
    if number == errno.ENOSYS:
        return _lacks(attempt)
    if number == errno.EPERM:
        # As the filters of containers have it, which allow it with CAP_SYS_NICE.
        return NoPermissionError(
            attempt, "a filter of system calls forbids it", "give the container CAP_SYS_NICE"
        )
    name = errno.errorcode.get(number, f"errno {number}")
    return SystemCallError(attempt, number, f"{name} ({os.strerror(number)})")
