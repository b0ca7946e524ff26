# SPDX-License-Identifier: MIT
"""The design of a host's KVM, and its remedies: parameters of the module that say which are on.

A kernel with the mail's design is told by what it does: it creates a guest_memfd for no VM. Which
of the remedies are on is read where it is written, in sysfs; a kernel that has no such parameter
has no such remedy.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pyvmm.errors import HostLacksError, NoPermissionError, SystemCallError
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.kvm.unowned_files import has_unowned_files
from pyvmm.lifetime.designs import JUDGED_FLAGS, Design, Remedy, file_pins_vm, memslot_pins_file

FOLDER = Path("/sys/module/kvm/parameters")

PARAMETERS: Mapping[str, str] = {
    **{each.name.lower().replace("_", "-"): f"gmem_{each.name.lower()}" for each in Remedy},
    JUDGED_FLAGS: "gmem_judge_flags",
}
"""The parameter of each remedy, by the remedy's name."""


def design_of(system: System, folder: Path = FOLDER) -> Design:
    """The design that this KVM follows, with the remedies that are on; its rules are mainline's.

    Raises `KvmError`.
    """
    if not has_unowned_files(system):
        return file_pins_vm()
    on = remedies_on(folder)
    return memslot_pins_file(
        *(each for each in Remedy if each.name.lower().replace("_", "-") in on),
        judges_flags=JUDGED_FLAGS in on,
    )


def remedies_on(folder: Path = FOLDER) -> frozenset[str]:
    """The names of the remedies whose parameters say Y."""
    return frozenset(name for name in PARAMETERS if _read(folder / PARAMETERS[name]) == "Y")


def remedies_there(folder: Path = FOLDER) -> tuple[str, ...]:
    """The names of the remedies that this kernel has a parameter for."""
    return tuple(name for name in PARAMETERS if _read(folder / PARAMETERS[name]))


@contextmanager
def only(remedies: frozenset[str], folder: Path = FOLDER) -> Iterator[None]:
    """Have these remedies on and all others off; at the end, those that were on before.

    Parameters are the whole machine's. Raises `HostLacksError` for a remedy that this kernel has
    no parameter for, `NoPermissionError` for one that this user may not change, and
    `SystemCallError`. Whatever becomes of one, all others are put back.
    """
    before = remedies_on(folder)
    there = remedies_there(folder)
    for name in sorted(remedies - set(there)):
        raise HostLacksError(
            f"turn the remedy {name} on",
            f"this kernel has no parameter {PARAMETERS[name]} of kvm",
            "pyvmm lab build --with memslot-pins-file makes one that has them",
        )
    with ExitStack() as stack:
        for name in there:
            stack.callback(_write, folder / PARAMETERS[name], on=name in before)
            _write(folder / PARAMETERS[name], on=name in remedies)
        yield


def _read(path: Path) -> str:
    """The text of a parameter; "" where there is no such parameter. Raises `SystemCallError`."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise _refused(f"read {path}", error) from error


def _write(path: Path, *, on: bool) -> None:
    if _read(path) == "NY"[on]:
        return
    attempt = f"set {path}"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"NY"[on : on + 1])
        finally:
            os.close(fd)
    except PermissionError as error:
        raise NoPermissionError(attempt, "this user may not", "run it as root") from error
    except OSError as error:
        raise _refused(attempt, error) from error


def _refused(attempt: str, error: OSError) -> SystemCallError:
    return SystemCallError(attempt, error.errno or 0, error.strerror or str(error))
