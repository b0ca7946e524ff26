# SPDX-License-Identifier: MIT
"""Debian's kernel packages, unpacked in the cache.

    $XDG_CACHE_HOME/pyvmm/linux/
        kernels/<suite>-<package>/   a package's files: boot/vmlinuz-*, lib/modules/*
        downloads/  apt/  work/      the package, the private apt's state, its log
        lock                         held by the one process that writes

Where the cache has a kernel of the suite, nobody asks the network for a newer one unless told to.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from pyvmm.errors import HostLacksError, UsageError
from pyvmm.lab.folders import cache_folder
from pyvmm.lab.kernel.cache import Cache
from pyvmm.lab.kernel.children import Children
from pyvmm.lab.kernel.debian import PrivateApt, archive_name
from pyvmm.lab.kernel.failures import KernelBuildError, system_call_error
from pyvmm.lab.kernel.progress import Progress

DEFAULT_SUITE = "bookworm"
DEFAULT_PACKAGE = "linux-image-cloud-amd64"
"""The kernel for virtual machines: a tenth of the modules. It has no 9p; linux-image-amd64 has."""
_FROM = "unpacked-from"
"""File with the name of the package that a folder's files are from."""
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]*")


@dataclass(frozen=True, slots=True)
class LinuxKernel:
    """A kernel to boot: its `release` (``uname -r``), and the folder of its modules.

    `modules` is None for a kernel that was given alone.
    """

    release: str
    image: Path
    modules: Path | None = None


def default_root() -> Path:
    """The folder ``linux`` in the user's `cache_folder`, whose errors it raises."""
    return cache_folder() / "linux"


def kept(suite: str, package: str, *, root: Path | None = None) -> LinuxKernel | None:
    """The kernel in the cache, if there is one."""
    cache = Cache(default_root() if root is None else root)
    return _unpacked(_place(cache, suite, package))


def fetch(
    progress: Progress,
    *,
    suite: str = DEFAULT_SUITE,
    package: str = DEFAULT_PACKAGE,
    again: bool = False,
    root: Path | None = None,
) -> LinuxKernel:
    """The kernel that `package` of Debian's `suite` is or depends on; from the cache if there.

    `again` asks Debian for a newer one. Raises `UsageError`, `HostLacksError`, `SystemCallError`.
    """
    for name in (suite, package):
        if not _NAME.fullmatch(name):
            raise UsageError(
                "fetch a kernel from Debian", f"{name!r} is no name that Debian would give"
            )
    cache = Cache(default_root() if root is None else root)
    with cache.locked(progress.say) as lock:
        place = _place(cache, suite, package)
        found = _unpacked(place)
        if found is not None and not again:
            return found
        children = Children(lock, cache.work / "apt.log")
        apt = PrivateApt(cache.root / "apt", children, progress)
        wanted = apt.look_up_binary(package, suite)
        if found is not None and archive_name(wanted) == _unpacked_from(place):
            return found
        return _unpack(apt.download(wanted, cache.downloads), place, cache, children)


def _place(cache: Cache, suite: str, package: str) -> Path:
    return cache.kernels / f"{suite}-{package}"


def _unpacked(place: Path) -> LinuxKernel | None:
    for image in sorted((place / "boot").glob("vmlinuz-*")):
        release = image.name.removeprefix("vmlinuz-")
        # Since Debian 13 /lib is a link and packages have their files below /usr.
        for modules in (place / "lib/modules", place / "usr/lib/modules"):
            if (modules / release).is_dir():
                return LinuxKernel(release, image, modules / release)
    return None


def _unpacked_from(place: Path) -> str:
    try:
        return (place / _FROM).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _unpack(archive: Path, place: Path, cache: Cache, children: Children) -> LinuxKernel:
    attempt = f"unpack {archive.name}"
    fresh = cache.kernels / f".new-{os.getpid()}-{place.name}"
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.parent.mkdir(parents=True, exist_ok=True)
        children.run(["dpkg-deb", "-x", str(archive), str(fresh)], attempt)
        (fresh / _FROM).write_text(archive.name, encoding="utf-8")
        if _unpacked(fresh) is None:
            raise KernelBuildError(attempt, "it has no kernel with modules", "name another package")
        cache.remove(place)
        fresh.rename(place)
        archive.unlink()
    except OSError as error:
        raise system_call_error(attempt, error) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    found = _unpacked(place)
    if found is None:
        raise HostLacksError(attempt, f"what was unpacked is gone from {place}", "try again")
    return found
