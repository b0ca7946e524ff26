# SPDX-License-Identifier: MIT
"""Modules of a kernel: which others each needs, and the tables that modprobe reads.

The facts are in each module's section .modinfo (the kernel's include/linux/module.h), so that
neither depmod nor a table that a package's installation would make is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from pyvmm.boot.unpacking import unpacked
from pyvmm.errors import HostLacksError, UsageError

FOR_GUESTS = (
    "virtio_pci", "virtio_mmio", "virtio_blk", "virtio_console", "virtio_rng", "virtio_balloon",
    "virtio_net", "vmw_vsock_virtio_transport", "9p", "9pnet_virtio", "ext4", "crc32c_generic",
    "button", "evdev", "qemu_fw_cfg", "pvpanic_pci", "pvpanic_mmio",
)  # fmt: skip
"""Modules for what a machine of pyvmm's has; a kernel has some built in, and others not at all."""


@dataclass(frozen=True, slots=True)
class Module:
    """A module: its file, uncompressed, the modules it needs, and the devices it is for."""

    name: str
    data: bytes
    needs: tuple[str, ...]
    aliases: tuple[str, ...]


def closure(folder: Path, wanted: Iterable[str], *, exactly: bool = False) -> list[Module]:
    """The modules in `folder` (lib/modules/RELEASE) that are wanted, and those they need.

    Each comes behind what it needs. A wanted one that is not there is left out, or, with `exactly`,
    refused unless it is built in. Raises `UsageError`, `HostLacksError`.
    """
    files = _files(folder)
    found: dict[str, Module] = {}

    def add(name: str) -> None:
        if name in found or name not in files:
            return
        module = _read(name, files[name])
        for needed in module.needs:
            add(needed)
        found[name] = module

    for name in map(_plain, wanted):
        if exactly and name not in files and name not in _built_in(folder):
            raise UsageError(
                f"take the module {name}", f"the kernel {folder.name} has none of that name"
            )
        add(name)
    return list(found.values())


def tables(modules: Iterable[Module]) -> Mapping[str, bytes]:
    """The files of a folder lib/modules/RELEASE: modules, ``modules.dep`` and ``modules.alias``."""
    files: dict[str, bytes] = {}
    needs: dict[str, list[str]] = {}
    lines, aliases = [], []
    for module in modules:
        files[f"{module.name}.ko"] = module.data
        # What is needed directly and by those, the last to load first: as depmod(8) writes it.
        every = [*module.needs, *(far for name in module.needs for far in needs.get(name, ()))]
        needs[module.name] = [
            name for name in dict.fromkeys(every) if name in needs or f"{name}.ko" in files
        ]
        named = " ".join(f"{name}.ko" for name in needs[module.name])
        lines.append(f"{module.name}.ko: {named}".rstrip())
        aliases += [f"alias {alias} {module.name}" for alias in module.aliases]
    files["modules.dep"] = "".join(f"{line}\n" for line in lines).encode()
    files["modules.alias"] = "".join(f"{line}\n" for line in aliases).encode()
    return files


def _plain(name: str) -> str:
    return name.replace("-", "_")


def _files(folder: Path) -> dict[str, Path]:
    found = {}
    for path in folder.rglob("*.ko*"):
        name, dot, _ = path.name.partition(".ko")
        if dot:
            found[_plain(name)] = path
    if not found:
        raise UsageError(f"take modules from {folder}", "there are none in it")
    return found


def _built_in(folder: Path) -> set[str]:
    try:
        lines = (folder / "modules.builtin").read_text(encoding="utf-8").split()
    except OSError:
        return set()
    return {_plain(Path(line).name.removesuffix(".ko")) for line in lines}


def _read(name: str, path: Path) -> Module:
    attempt = f"read the module {path}"
    try:
        data = bytes(unpacked(memoryview(path.read_bytes()), attempt).image)
        section = ELFFile(BytesIO(data)).get_section_by_name(".modinfo")
        said = section.data() if section is not None else b""
    except (OSError, ELFError) as error:
        raise HostLacksError(attempt, str(error) or "it is no ELF file") from error
    pairs = [entry.partition("=") for entry in said.decode("utf-8", "replace").split("\0")]
    needs = [value for key, _, value in pairs if key == "depends" and value]
    aliases = tuple(value for key, _, value in pairs if key == "alias")
    return Module(
        name, data, tuple(_plain(need) for line in needs for need in line.split(",")), aliases
    )
