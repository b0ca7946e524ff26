# SPDX-License-Identifier: MIT
"""A process of its own that holds a page of a guest_memfd, on purpose: for tests and for trying."""

from __future__ import annotations

import subprocess
import sys

from pyvmm.errors import SystemCallError
from pyvmm.hosts.kvm.binding import refused
from pyvmm.hosts.kvm.ownership import FdOwner
from pyvmm.hosts.owner import Owner
from pyvmm.rules.abi import PAGE_SIZE

_HOLD = """
import ctypes, mmap, os, sys
fd, size, offset, page = map(int, sys.argv[1:])
class Part(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))
mapped = mmap.mmap(fd, size)
first = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
library = ctypes.CDLL(None, use_errno=True)
ends = os.pipe()
part, one, none = Part(first + offset, page), ctypes.c_size_t(1), ctypes.c_uint(0)
moved = library.vmsplice(ends[1], ctypes.byref(part), one, none)
print(ctypes.get_errno() if moved < 0 else 0, flush=True)
sys.stdin.read()
"""


class HoldingProcess(Owner):
    """A process that has a page in a pipe, by vmsplice(2), until `close` has ended it."""

    def __init__(self, file: FdOwner, size: int, offset: int) -> None:
        """`file` is a guest_memfd of `size` bytes, and `offset` a page's in it.

        Raises `SystemCallError`: with EFAULT where the host cannot touch the page.
        """
        attempt = f"have another process hold the page at offset {offset:#x} of fd {file.fd}"
        arguments = (file.fd, size, offset // PAGE_SIZE * PAGE_SIZE, PAGE_SIZE)
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _HOLD, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[file.fd],
            text=True,
        )
        try:
            said = self._process.stdout
            answer = said.readline().strip() if said is not None else ""
            if not answer.isdecimal():
                raise SystemCallError(attempt, 0, "it ended before it had the page")
            if int(answer):
                raise refused(int(answer), attempt)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Its process number."""
        return self._process.pid

    def close(self) -> None:
        """Have it end, and with it its hold; a second call does nothing."""
        if self._process.returncode is None:
            self._process.communicate()
