# SPDX-License-Identifier: MIT
"""One host with the objects of one sequence, by name: VMs, files, mappings, a guest."""

from __future__ import annotations

import ctypes
import errno
import mmap
from collections.abc import Callable

from pyvmm.errors import InternalError, SystemCallError, UsageError
from pyvmm.hosts import interface
from pyvmm.hosts.capabilities import GuestMemfdFlag, VmType

from .guests import Guest

PAGE = 4096
MAPPING_PAGES = 8
"""The size of every mapping that is no file's, and of files that were not created outright."""

_MAP_FIXED_NOREPLACE = 0x100000
_MAP_ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def _reserve(address: int, size: int) -> int:
    """Addresses that nobody can use, and that nothing else will be mapped at."""
    flags = _MAP_ANONYMOUS | (_MAP_FIXED_NOREPLACE if address else 0)
    found = _libc.mmap(address or None, size, 0, flags, -1, 0)
    assert found is not None
    assert not address or found == address
    return int(found)


NOWHERE = _reserve(0, 64 * PAGE)
"""Host addresses that stay unusable: a slot there has no shared memory."""


class World:
    """The host `system` and what a sequence has made on it.

    What a sequence uses and has not made is made then: a VM; anonymous memory; a guest_memfd of VM
    one, for A with `flags`, for the others with none; the guest of VM one, by `guest_of`.
    `prefetches`: no memory is given beside a guest_memfd that serves all of a slot.
    """

    def __init__(
        self,
        system: interface.System,
        guest_of: Callable[[interface.Vm], Guest],
        kind: VmType,
        flags: GuestMemfdFlag,
        *,
        reserves: bool,
        prefetches: bool = False,
    ) -> None:
        self.system = system
        self._guest_of = guest_of
        self._kind = kind
        self._flags = flags
        self._reserves = reserves
        self.prefetches = prefetches
        self._reserved: list[tuple[int, int]] = []
        self.vms: dict[str, interface.Vm] = {}
        self.files: dict[str, interface.GuestMemfd] = {}
        self.mappings: dict[str, interface.GuestMapping] = {}
        self._guest: Guest | None = None

    def vm(self, name: str) -> interface.Vm:
        """The VM of this name."""
        if name not in self.vms:
            self.vms[name] = self.system.create_vm(self._kind)
        return self.vms[name]

    def file(self, name: str) -> interface.GuestMemfd:
        """The guest_memfd of this name."""
        if name not in self.files:
            flags = self._flags if name == "A" else GuestMemfdFlag(0)
            self.files[name] = self.vm("one").create_guest_memfd(MAPPING_PAGES * PAGE, flags)
        return self.files[name]

    def mapping(self, name: str) -> interface.GuestMapping:
        """The mapping of this name."""
        if name not in self.mappings:
            self.mappings[name] = self.system.map_anonymous(MAPPING_PAGES * PAGE)
        return self.mappings[name]

    def guest(self) -> Guest:
        """The guest of VM one."""
        if self._guest is None:
            self._guest = self._guest_of(self.vm("one"))
        return self._guest

    def put_file(self, name: str, file: interface.GuestMemfd) -> None:
        """It has this name from now on; what had it is closed."""
        if name in self.files:
            self.files[name].close()
        self.files[name] = file

    def put_mapping(self, name: str, mapping: interface.GuestMapping) -> None:
        """It has this name from now on; what had it is closed."""
        if name in self.mappings:
            self.close_mapping(name)
        self.mappings[name] = mapping

    def close_mapping(self, name: str) -> None:
        """Unmap it, and let nothing else be mapped there: slots may still name the addresses."""
        mapping = self.mapping(name)
        hva, size = mapping.hva, mapping.size
        mapping.close()
        if hva and self._reserves:
            self._reserved.append((_reserve(hva, size), size))

    def contents(self) -> dict[str, bytes]:
        """What the host reads through each open mapping: the first bytes of its pages."""
        found = {}
        for name, mapping in self.mappings.items():
            if mapping.hva:
                with mapping.view() as view:
                    found[name] = bytes(view[::PAGE])
        return found

    def close(self) -> None:
        """Everything goes."""
        if self._guest is not None:
            self._guest.close()
        for vm in self.vms.values():
            vm.close()
        for file in self.files.values():
            file.close()
        for name in self.mappings:
            self.close_mapping(name)
        for address, size in self._reserved:
            _libc.munmap(address, size)


def result_of(action: Callable[[], str | None]) -> str:
    """What came of it, in words: ``ok``, an errno's name, or what `action` says."""
    try:
        return action() or "ok"
    except SystemCallError as error:
        return errno.errorcode.get(error.errno, str(error.errno))
    except (UsageError, InternalError) as error:
        return type(error).__name__
