# SPDX-License-Identifier: MIT
"""Memory errors on pages of a mapping, as debugfs's ``hwpoison/corrupt-pfn`` makes them.

The page is really taken out of use by the kernel (memory-failure.c); `PageErrors.give_back` makes
it a good one again. madvise(2) with MADV_HWPOISON does the same, but the process that asks for it
gets SIGBUS at once where the guest has written to the page.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from pyvmm.errors import HostLacksError
from pyvmm.hosts.kvm.binding import refused
from pyvmm.hosts.kvm.mapping import Mapping
from pyvmm.hosts.owner import Owner
from pyvmm.replay.debugfs import open_folder
from pyvmm.rules.abi import PAGE_SIZE

_WORD = struct.Struct("=Q")
"""An entry of /proc/self/pagemap, by page of the address space; of /proc/kpageflags, by pfn."""
_PFN = (1 << 55) - 1
_KPF_HWPOISON = 1 << 19
_MREMAP_MAYMOVE = 1


class PageErrors(Owner):
    """Pages of this machine with errors; they are good again after `close`.

    Close it when nobody maps them and no file has them any more: the kernel refuses before.
    """

    def __init__(self) -> None:
        """Raises `HostLacksError` where the kernel was built without it, or without root."""
        self._poisoned: list[int] = []
        self._fds: list[int] = []
        with ExitStack() as stack:
            folder = open_folder("hwpoison")
            stack.callback(os.close, folder)
            failed = stack.enter_context(ExitStack())
            try:
                for name, mode in (
                    ("corrupt-pfn", os.O_WRONLY),
                    ("unpoison-pfn", os.O_WRONLY),
                    ("/proc/self/pagemap", os.O_RDONLY),
                    ("/proc/kpageflags", os.O_RDONLY),
                ):
                    fd = os.open(name, mode | os.O_CLOEXEC, dir_fd=folder)
                    failed.callback(os.close, fd)
                    self._fds.append(fd)
            except OSError as error:
                raise HostLacksError(
                    "have an error on a page", error.strerror or str(error), "use the lab"
                ) from error
            failed.pop_all()
        self._corrupt, self._unpoison, self._pagemap, self._flags = self._fds

    def close(self) -> None:
        """Give the pages back. Raises `OSError` where the kernel does not take one."""
        fds, self._fds = self._fds, []
        try:
            if fds:
                self.give_back()
        finally:
            for fd in fds:
                os.close(fd)

    def give_back(self) -> None:
        """Make the pages that had errors good ones again. Raises `OSError` as `close`."""
        while self._poisoned:
            os.write(self._unpoison, b"%#x" % self._poisoned.pop())

    def poison(self, mapping: Mapping, offset: int) -> str:
        """Have an error on the page at `offset`, in bytes, of a mapping: "ok", or an errno's name.

        The kernel answers EBUSY where the page stays in its file with the error, as those of
        guest_memfd do: so the page's own flag tells.
        """
        with _second(mapping) as address:
            _touched = ctypes.c_ubyte.from_address(address + offset).value  # so that it is there
            pfn = self._word(self._pagemap, (address + offset) // PAGE_SIZE) & _PFN
            answer = "ok"
            try:
                os.write(self._corrupt, b"%#x" % pfn)
            except OSError as error:
                answer = errno.errorcode.get(error.errno or 0, str(error.errno))
        if self._word(self._flags, pfn) & _KPF_HWPOISON:
            self._poisoned.append(pfn)
            return "ok"
        return "a page without an error" if answer == "ok" else answer

    def _word(self, fd: int, index: int) -> int:
        (word,) = _WORD.unpack(os.pread(fd, _WORD.size, index * _WORD.size))
        return int(word)


@contextmanager
def _second(mapping: Mapping) -> Iterator[int]:
    """Map the same file once more (mremap(2) from a length of 0): the address.

    It has no page that an error has been on before, while the first may.
    """
    library = ctypes.CDLL(None, use_errno=True)
    library.mremap.restype = ctypes.c_void_p
    size = ctypes.c_size_t(mapping.size)
    address = library.mremap(
        ctypes.c_void_p(mapping.hva), ctypes.c_size_t(0), size, _MREMAP_MAYMOVE
    )
    if address == ctypes.c_void_p(-1).value:
        raise refused(ctypes.get_errno(), "map a file once more")
    try:
        yield address
    finally:
        library.munmap(ctypes.c_void_p(address), size)
