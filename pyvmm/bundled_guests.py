# SPDX-License-Identifier: MIT
"""The guest images and the firmware that come with pyvmm, and where they are.

An installed package has them in ``pyvmm/images``; a checkout in ``guest/build`` and
``firmware/build``, where ``make`` puts them.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pyvmm.errors import HostLacksError
from pyvmm.memory.layout import FIRMWARE_SIZE
from pyvmm.rules.abi import PAGE_SIZE

_PACKAGE = Path(__file__).resolve().parent
_PLACES = (_PACKAGE / "images", _PACKAGE.parent / "guest" / "build")
_SUFFIX = ".img"
_FIRMWARE_PLACES = (_PACKAGE / "images", _PACKAGE.parent / "firmware" / "build")
_FIRMWARE = "firmware.bin"
_BIOS = "bios.bin"
_TO_FIND_BIOS = "find the bundled BIOS"
_TO_FIND_FIRMWARE = "find the bundled firmware"
_TO_BUILD = "run make guests in the checkout"


_NEEDS = {
    "acpi": "tables: --acpi on",
    "balloon": "a balloon: --balloon",
    **dict.fromkeys(("block", "hostile", "pci"), "a disk: --disk FILE"),
    "net": "a network card: --net tap or --net user",
    "packed": "a disk with packed rings: --disk FILE --rings packed",
    "ports": "a port: --port NAME=PATH",
    "share": "a folder: --share TAG=DIR",
    "vsock": "a socket device: --vsock cid=N,path=P",
}
"""Needs of guests beside those that every machine meets (docs/machine.md)."""


class BundledGuest(NamedTuple):
    """A bundled image: what ``pyvmm run NAME`` calls it, and its file."""

    name: str
    path: Path

    @property
    def needs(self) -> str:
        """Thing that it needs and that not every machine has; "" for most."""
        return _NEEDS.get(self.name, "")


def directory() -> Path:
    """Find the directory of the images. Raises `HostLacksError` when they were never built."""
    for place in _PLACES:
        if any(place.glob(f"*{_SUFFIX}")):
            return place
    raise HostLacksError("find the bundled guests", "they have not been built", _TO_BUILD)


def find(name: str) -> BundledGuest | None:
    """The bundled guest called `name`, with or without ``.img``."""
    stem = name.removesuffix(_SUFFIX)
    if not stem or "/" in stem:
        return None
    for place in _PLACES:
        path = place / (stem + _SUFFIX)
        with suppress(OSError):  # A name that no file can have is nobody's.
            if path.is_file():
                return BundledGuest(stem, path)
    return None


def all_guests() -> list[BundledGuest]:
    """Every bundled guest, by name."""
    paths = sorted(directory().glob(f"*{_SUFFIX}"))
    return [BundledGuest(path.name.removesuffix(_SUFFIX), path) for path in paths]


def firmware_path() -> Path:
    """The file of the firmware. Raises `HostLacksError` when it was never built."""
    for place in _FIRMWARE_PLACES:
        path = place / _FIRMWARE
        if path.is_file():
            return path
    raise HostLacksError(_TO_FIND_FIRMWARE, "it has not been built", _TO_BUILD)


def bios() -> bytes:
    """The BIOS for images that are entered in real mode, a page (``firmware/bios``).

    Raises `HostLacksError` when it was never built, or not to its end.
    """
    for place in _FIRMWARE_PLACES:
        path = place / _BIOS
        if path.is_file():
            content = path.read_bytes()
            if len(content) == PAGE_SIZE:
                return content
            cause = f"it has {len(content)} bytes, not {PAGE_SIZE}"
            raise HostLacksError(_TO_FIND_BIOS, cause, _TO_BUILD)
    raise HostLacksError(_TO_FIND_BIOS, "it has not been built", _TO_BUILD)


def firmware() -> bytes:
    """The firmware of a private launch, `FIRMWARE_SIZE` bytes (``firmware/README.md``).

    Raises `HostLacksError` when it was never built, or not to its end.
    """
    content = firmware_path().read_bytes()
    if len(content) != FIRMWARE_SIZE:
        cause = f"it has {len(content)} bytes, not {FIRMWARE_SIZE}"
        raise HostLacksError(_TO_FIND_FIRMWARE, cause, _TO_BUILD)
    return content
