# SPDX-License-Identifier: MIT
"""Requests for a boot: what a test says, checked, read and made one frozen value."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypedDict

from pyvmm import bundled_guests
from pyvmm.errors import HostLacksError, ImageError, NoInputError, PyvmmError, UsageError
from pyvmm.machine.image_file import image_path, read_image, read_input
from pyvmm.memory.backing import PrivateBacking
from pyvmm.memory.sizes import size_of
from pyvmm.testing.boot_defaults import DEFAULT_MEMORY, DEFAULT_TIMEOUT
from pyvmm.testing.drivers.monitors import HostName
from pyvmm.testing.failures import is_told

if TYPE_CHECKING:
    from pyvmm.testing.network.async_networks import AsyncPort
    from pyvmm.testing.network.ports import Port
    from pyvmm.testing.saved_boot import SavedBoot

__tracebackhide__ = is_told

_PRINTABLE = re.compile(rb"[\t\n\f\r\x1b -~\x80-\xff]+")


@dataclass(frozen=True, slots=True)
class BootRequest:
    """A guest to boot: `memory` in bytes, `timeout` in seconds from the boot on.

    `path` is the image's file, None where a test gave the bytes; `name` is for messages. With
    `crash` a guest that panics or crashes does not fail its test. `firmware` starts it where
    `private`: what it does not share, the host does not see; `backing` is how. `symbols` is the
    image's ELF file with symbols, where a test names it. With `paused` it waits for the first
    ``resume`` before its first instruction. With `saved` it is not booted, and goes on from there.
    It has a network card for each port of `net`.
    """

    image: bytes = field(repr=False)
    name: str
    path: Path | None = None
    append: bytes = b""
    memory: int = DEFAULT_MEMORY
    cpus: int = 1
    private: bool = False
    firmware: bytes | None = field(default=None, repr=False)
    backing: PrivateBacking = PrivateBacking.AUTO
    host: HostName = HostName.AUTO
    initrd: bytes | None = field(default=None, repr=False)
    initrd_path: Path | None = None
    timeout: float = DEFAULT_TIMEOUT
    crash: bool = False
    symbols: Path | None = None
    paused: bool = False
    saved: SavedBoot | None = field(default=None, repr=False)
    net: tuple[Port, ...] = ()


class BootArguments(TypedDict, total=False):
    """Arguments of `make_request`, for those who pass them on."""

    append: str | bytes
    memory: str | int
    cpus: int
    private: bool | str
    host: str | HostName
    initrd: str | os.PathLike[str] | bytes | None
    timeout: float
    crash: bool
    symbols: str | os.PathLike[str] | None
    paused: bool
    net: Port | AsyncPort | Sequence[Port | AsyncPort] | None


Defaults: TypeAlias = BootArguments | Callable[[BootArguments], BootArguments]
"""Arguments of the boots that do not say them, or a function of what one says that gives them."""


def merged(said: BootArguments, defaults: Defaults | None) -> BootArguments:
    """Arguments that are `said`, and `defaults` for the others.

    Raises `TypeError` for one that there is not.
    """
    known = BootArguments.__annotations__
    for name in said:
        if name not in known:
            import difflib

            near = difflib.get_close_matches(name, known, 1, 0.4) or known
            raise TypeError(
                f"boot() got an unexpected keyword argument {name!r}; there is {', '.join(near)}"
            )
    others = defaults(said) if callable(defaults) else defaults or {}
    both: BootArguments = {**others, **said}
    return both


def make_request(
    image: str | os.PathLike[str] | bytes,
    *,
    append: str | bytes = "",
    memory: str | int = DEFAULT_MEMORY,
    cpus: int = 1,
    private: bool | str = False,
    host: str | HostName = HostName.AUTO,
    initrd: str | os.PathLike[str] | bytes | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    crash: bool = False,
    symbols: str | os.PathLike[str] | None = None,
    paused: bool = False,
    net: Port | AsyncPort | Sequence[Port | AsyncPort] | None = None,
) -> BootRequest:
    """Make the request of what a test says. Files are read here.

    `image`: a path, the name of a bundled guest, or an image's bytes. `memory`: ``"64M"``, or a
    number of bytes. `private`: true, or the name of how its memory is converted, ``"two-sided"`` or
    ``"in-place"`` (`PrivateBacking`). Raises `UsageError` where a value cannot be, `NoInputError`
    and what else `read_image` raises where there is no image, `ImageError` where a file is plain
    text.
    """
    if not (isinstance(timeout, (int, float)) and 0 < timeout < float("inf")):
        raise UsageError(f"boot with timeout={timeout!r}", "it is seconds, a finite number above 0")
    if not (isinstance(cpus, int) and cpus > 0):
        raise UsageError(f"boot with cpus={cpus!r}", "it is a number of vCPUs, from 1 on")
    size = _memory(memory)
    backing = _private_backing(private)
    try:
        content, name, path = _read_guest(image)
        ramdisk, initrd_path = _read_initrd(initrd, size)
    except PyvmmError as error:
        raise error.with_traceback(None) from None  # It says all by itself.
    return BootRequest(
        image=content,
        name=name,
        path=path,
        append=_append(append),
        memory=size,
        cpus=cpus,
        private=backing is not None,
        firmware=None if backing is None else bundled_guests.firmware(),
        backing=backing or PrivateBacking.AUTO,
        host=_host(host),
        initrd=ramdisk,
        initrd_path=initrd_path,
        timeout=float(timeout),
        crash=crash,
        symbols=None if symbols is None else Path(symbols),
        paused=paused,
        net=() if net is None else _ports(net),
    )


def _private_backing(private: bool | str) -> PrivateBacking | None:
    if isinstance(private, bool):
        return PrivateBacking.AUTO if private else None
    try:
        return PrivateBacking(private)
    except ValueError:
        known = " or ".join(repr(one.value) for one in PrivateBacking)
        raise UsageError(f"boot with private={private!r}", f"it is True, or {known}") from None


def _read_guest(image: str | os.PathLike[str] | bytes) -> tuple[bytes, str, Path | None]:
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image), "image", None
    if not isinstance(image, (str, os.PathLike)):
        raise UsageError(
            f"boot {image!r}", "an image is a path, the name of a bundled guest, or bytes"
        )
    name = os.fspath(image)
    path = image_path(name) if isinstance(image, str) and name else Path(name)
    if name and os.path.lexists(path):
        content = read_image(path)
        if _is_text(content):
            raise ImageError(
                f"boot {name!r}", "it is text, and no image", "give what is built from it, or bytes"
            )
        return content, name, path
    try:
        names = ", ".join(guest.name for guest in bundled_guests.all_guests())
    except HostLacksError:
        names = "the bundled guests, which are not built yet: make guests"
    raise NoInputError(
        f"boot {name!r}",
        f"there is no such file here ({Path.cwd()}), and no bundled guest of that name",
        f"give a path, an image's bytes, or one of {names}",
    )


def _is_text(content: bytes) -> bool:
    """True for what is not empty and nothing but printable text in UTF-8: no flat image either."""
    if not _PRINTABLE.fullmatch(content):
        return False
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _read_initrd(
    initrd: str | os.PathLike[str] | bytes | None, memory: int
) -> tuple[bytes | None, Path | None]:
    if initrd is None or isinstance(initrd, bytes):
        return initrd, None
    if not isinstance(initrd, (str, os.PathLike)):
        raise UsageError(f"boot with initrd={initrd!r}", "an initrd is a path, or bytes")
    path = Path(initrd)
    if not os.path.lexists(path):
        raise NoInputError(
            f"boot with initrd={os.fspath(initrd)!r}",
            f"there is no such file here ({Path.cwd()})",
            "give a path, or the initrd's bytes",
        )
    return read_input(path, memory, "the guest's memory", "give the guest more with memory="), path


def _append(append: str | bytes) -> bytes:
    if not isinstance(append, (str, bytes)):
        raise UsageError(f"boot with append={append!r}", "a command line is text or bytes")
    line = os.fsencode(append)
    if b"\0" in line:
        raise UsageError(
            f"boot with append={append!r}", "a command line ends at a zero byte", "leave that out"
        )
    return line


def _ports(net: Port | AsyncPort | Sequence[Port | AsyncPort]) -> tuple[Port, ...]:
    from pyvmm.testing.network.async_networks import AsyncPort
    from pyvmm.testing.network.ports import Port

    given = (net,) if isinstance(net, (Port, AsyncPort)) else net
    kinds = (Port, AsyncPort)
    if not isinstance(given, (tuple, list)) or not all(isinstance(one, kinds) for one in given):
        raise UsageError(
            f"boot with net={net!r}",
            "it is a port of a network, or a list of ports",
            "give network.port()",
        )
    ports = [one.port if isinstance(one, AsyncPort) else one for one in given]
    if len(set(ports)) < len(ports):
        raise UsageError(f"boot with net={net!r}", "two cards cannot have the same port")
    return tuple(ports)


def _memory(memory: str | int) -> int:
    size = size_of(memory) if isinstance(memory, str) else memory
    if not isinstance(size, int) or size <= 0:
        raise UsageError(f"boot with memory={memory!r}", "it is a size (64M, 2G), or bytes")
    return size


def _host(host: str | HostName) -> HostName:
    try:
        return HostName(host)
    except ValueError:
        known = ", ".join(one.value for one in HostName)
        attempt = f"boot on host={host!r}"
        raise UsageError(attempt, "there is no such host", f"give {known}") from None
