# SPDX-License-Identifier: MIT
"""The C interface of Unicorn 2.1 (``unicorn/unicorn.h``), as much of it as the model uses.

The library comes with the package `unicorn`, whose own Python part takes a tenth of a second to
import and is not needed: this binds the shared library directly.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, c_bool, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

from pyvmm.errors import HostLacksError, InternalError

ARCH_X86 = 4
MODE_64 = 8

PROT_READ = 1
PROT_WRITE = 2
PROT_EXEC = 4

HOOK_INTR = 1 << 0
HOOK_INSN = 1 << 1
HOOK_CODE = 1 << 2
HOOK_MEM_UNMAPPED = 0b111 << 4
HOOK_MEM_PROT = 0b111 << 7

MEM_READ_UNMAPPED = 19
MEM_WRITE_UNMAPPED = 20
MEM_FETCH_UNMAPPED = 21
MEM_WRITE_PROT = 22
MEM_FETCH_PROT = 24

ERR_OK = 0

INSN_IN = 218
INSN_OUT = 500
INSN_SYSCALL = 699

REG_FPSW = 31
REG_RAX = 35
REG_CR2 = 52
REG_DR0 = 66
REG_LDTR = 244
REG_FPCW = 246
REG_MSR = 248

_CTL_WRITE = 1 << 30
CTL_USE_EXITS = 4 | 1 << 26 | _CTL_WRITE
CTL_EXITS = 6 | 2 << 26 | _CTL_WRITE
CTL_TB_FLUSH = 10 | _CTL_WRITE
CTL_TLB_FLUSH = 11 | _CTL_WRITE
CTL_TLB_TYPE = 12 | 1 << 26 | _CTL_WRITE
CTL_CODE_BUFFER = 13 | 1 << 26 | _CTL_WRITE
TLB_CPU = 0

OnCode = CFUNCTYPE(None, c_void_p, c_uint64, c_uint32, c_void_p)
OnSyscall = CFUNCTYPE(None, c_void_p, c_void_p)
OnInterrupt = CFUNCTYPE(None, c_void_p, c_uint32, c_void_p)
OnIn = CFUNCTYPE(c_uint32, c_void_p, c_uint32, c_int, c_void_p)
OnOut = CFUNCTYPE(None, c_void_p, c_uint32, c_int, c_uint32, c_void_p)
OnMemory = CFUNCTYPE(c_bool, c_void_p, c_int, c_uint64, c_int, ctypes.c_int64, c_void_p)
OnMmioRead = CFUNCTYPE(c_uint64, c_void_p, c_uint64, ctypes.c_uint, c_void_p)
OnMmioWrite = CFUNCTYPE(None, c_void_p, c_uint64, ctypes.c_uint, c_uint64, c_void_p)


class Msr(ctypes.Structure):
    """``uc_x86_msr``."""

    _fields_ = (("index", c_uint32), ("value", c_uint64))


_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "uc_open": (c_int, (c_int, c_int, POINTER(c_void_p))),
    "uc_version": (ctypes.c_uint, (c_void_p, c_void_p)),
    "uc_close": (c_int, (c_void_p,)),
    "uc_strerror": (ctypes.c_char_p, (c_int,)),
    "uc_reg_write": (c_int, (c_void_p, c_int, c_void_p)),
    "uc_emu_start": (c_int, (c_void_p, c_uint64, c_uint64, c_uint64, c_size_t)),
    "uc_emu_stop": (c_int, (c_void_p,)),
    "uc_mem_map_ptr": (c_int, (c_void_p, c_uint64, c_uint64, c_uint32, c_void_p)),
    "uc_mem_unmap": (c_int, (c_void_p, c_uint64, c_uint64)),
    "uc_mmio_map": (
        c_int,
        (c_void_p, c_uint64, c_uint64, OnMmioRead, c_void_p, OnMmioWrite, c_void_p),
    ),
    "uc_hook_del": (c_int, (c_void_p, c_size_t)),
    "uc_context_alloc": (c_int, (c_void_p, POINTER(c_void_p))),
    "uc_context_free": (c_int, (c_void_p,)),
    "uc_context_save": (c_int, (c_void_p, c_void_p)),
    "uc_context_restore": (c_int, (c_void_p, c_void_p)),
    "uc_context_reg_read": (c_int, (c_void_p, c_int, c_void_p)),
    "uc_context_reg_write": (c_int, (c_void_p, c_int, c_void_p)),
    "uc_context_size": (c_size_t, (c_void_p,)),
}

REMEDY = "pip install 'unicorn>=2.1.4,<3'"


def is_installed() -> bool:
    """The package is there: pyvmm works without it, but for the model."""
    return importlib.util.find_spec("unicorn") is not None


def _path() -> Path:
    """Find the library in the package. Raises `HostLacksError` without it."""
    found = importlib.util.find_spec("unicorn")
    places = [] if found is None else list(found.submodule_search_locations or ())
    for place in places:
        for name in ("libunicorn.so.2", "libunicorn.2.dylib"):
            path = Path(place) / "lib" / name
            if path.exists():
                return path
    raise HostLacksError("run a guest without KVM", "Unicorn is not installed", REMEDY)


@cache
def library() -> ctypes.CDLL:
    """The library, loaded once. Raises `HostLacksError` where there is none that fits."""
    path = _path()
    try:
        loaded = ctypes.CDLL(str(path))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(loaded, name)
            function.restype = result
            function.argtypes = arguments
    except (OSError, AttributeError) as error:
        raise HostLacksError("run a guest without KVM", f"{path}: {error}", REMEDY) from error
    return loaded


def version() -> str:
    """The library's version, as "2.1.4". Raises `HostLacksError` where there is none that fits."""
    number: int = library().uc_version(None, None)
    return f"{number >> 24}.{number >> 16 & 0xFF}.{number >> 8 & 0xFF}"


def check(code: int, attempt: str) -> None:
    """Raise `InternalError` unless `code` is UC_ERR_OK."""
    if code != ERR_OK:
        text: bytes = library().uc_strerror(code)
        raise InternalError(attempt, text.decode())


def control(handle: c_void_p, request: int, *arguments: Any) -> None:
    """uc_ctl, which takes any number of arguments."""
    call: Callable[..., int] = library().uc_ctl
    check(call(handle, c_int(request), *arguments), f"set up the processor ({request:#x})")


def hook_at(handle: c_void_p, address: int, callback: Any) -> int:
    """uc_hook_add for the instruction at one linear address: its number, for uc_hook_del.

    Code that has been translated already has it not. Keep `callback` alive.
    """
    made = c_size_t()
    call: Callable[..., int] = library().uc_hook_add
    code = call(
        handle,
        ctypes.byref(made),
        c_int(HOOK_CODE),
        callback,
        None,
        c_uint64(address),
        c_uint64(address),
    )
    check(code, f"set a breakpoint at {address:#x}")
    return made.value


def hook(handle: c_void_p, kind: int, callback: Any, *more: Any) -> None:
    """uc_hook_add for all addresses. Keep `callback` alive as long as the engine."""
    made = c_size_t()
    call: Callable[..., int] = library().uc_hook_add
    code = call(
        handle,
        ctypes.byref(made),
        c_int(kind),
        callback,
        None,
        c_uint64(1),
        c_uint64(0),
        *more,
    )
    check(code, f"set up the processor (hook {kind:#x})")
