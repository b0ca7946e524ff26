# SPDX-License-Identifier: MIT
"""``pyvmm linux``: a kernel, an initial RAM file system and a disk, in a folder."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pyvmm.lab.kernel.failures import system_call_error
from pyvmm.lab.linux import modules, root_files
from pyvmm.lab.linux.kernel_package import LinuxKernel


@dataclass(frozen=True, slots=True)
class LinuxWish:
    """Wish for what is beside the kernel: modules by name, programs for /bin, a disk in bytes."""

    modules: tuple[str, ...] = ()
    programs: tuple[Path, ...] = ()
    disk: int | None = None


@dataclass(frozen=True, slots=True)
class LinuxFiles:
    """Files to boot; `disk` is None where none was wished for."""

    kernel: Path
    initrd: Path
    disk: Path | None
    loaded: tuple[str, ...]


def make(kernel: LinuxKernel, folder: Path, wish: LinuxWish) -> LinuxFiles:
    """Write ``vmlinuz``, ``initrd`` and perhaps ``disk`` to `folder`, which is made if need be.

    A disk that is there is replaced. Raises `UsageError`, `NoInputError`, `ImageError`,
    `HostLacksError`, `SystemCallError`.
    """
    if wish.disk is not None:
        root_files.check_disk_size(wish.disk)
    data, programs = root_files.busybox()
    entries = root_files.base(programs, data, wish.programs)
    found: list[modules.Module] = []
    if kernel.modules is not None:
        found = modules.closure(kernel.modules, wish.modules, exactly=True)
        found = [
            *found,
            *(
                module
                for module in modules.closure(kernel.modules, modules.FOR_GUESTS)
                if module.name not in {one.name for one in found}
            ),
        ]
        entries += root_files.with_modules(kernel.release, found)
    files = LinuxFiles(
        folder / "vmlinuz",
        folder / "initrd",
        folder / "disk" if wish.disk is not None else None,
        tuple(module.name for module in found),
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(shutil.SameFileError):  # One's own, and where it belongs.
            shutil.copyfile(kernel.image, files.kernel)
        files.initrd.write_bytes(root_files.initramfs(entries))
    except OSError as error:
        raise system_call_error(f"write a kernel to {folder}", error) from error
    if files.disk is not None and wish.disk is not None:
        root_files.write_disk(files.disk, wish.disk, entries)
    return files
