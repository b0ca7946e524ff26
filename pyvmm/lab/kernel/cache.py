# SPDX-License-Identifier: MIT
"""The cache of kernels, and who may write to it.

    $XDG_CACHE_HOME/pyvmm/lab/
        kernels/<name>-<key>/   an entry: manifest.json and the image
        downloads/              Debian's source packages
        apt/                    the private apt's state
        work/<name>-<key>/      a build under way: source (in it: objects), make's log
        trees/<name>-<key>/     what such a build has left: others begin with its objects
        selftests/<name>-<key>/ a kernel's own selftests, compiled
        lock                    held by the one process that writes, and by its children

An entry appears by a rename, whole; nobody changes it afterwards.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeGuard

from pyvmm.errors import HostLacksError
from pyvmm.lab.folders import cache_folder
from pyvmm.lab.kernel import known_changes
from pyvmm.lab.kernel.configuration import lab_fragment
from pyvmm.lab.kernel.failures import CorruptEntryError, system_call_error
from pyvmm.lab.kernel.manifest import Kernel, Manifest, version_order

_MANIFEST = "manifest.json"


def default_root() -> Path:
    """The folder ``lab`` in the user's `cache_folder`, whose errors it raises."""
    return cache_folder() / "lab"


def entry_key(name: str, version: str, source: str, config_hash: str, compiler: str) -> str:
    """The name of an entry's folder: equal for equal arguments, different otherwise."""
    text = json.dumps([name, version, source, config_hash, compiler])
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    return f"{stem}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def find(name: str | None = None, *, root: Path | None = None) -> Kernel:
    """The kernel called `name`; by default the newest that was built here, else the newest.

    None with a change of ours is found by default. A kernel that was built from another
    configuration than this pyvmm's does not count, nor one whose change has another text by now.
    Its file is checked against its checksum. Raises `HostLacksError` where there is none, and
    `CorruptEntryError` after removing one that is damaged.
    """
    return Cache(default_root() if root is None else root).find(name)


class Cache:
    """The cache in the folder `root`, which need not exist."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.kernels = root / "kernels"
        self.downloads = root / "downloads"
        self.work = root / "work"
        self.trees = root / "trees"

    def entries(self) -> list[tuple[Path, Manifest]]:
        """All entries that can be read, with their folders: the best first, files not checked."""
        found = []
        try:
            folders = list(self.kernels.iterdir())
        except OSError:
            return []
        for folder in folders:
            manifest = _read_manifest(folder)
            if manifest is not None:
                found.append((folder, manifest))
        found.sort(
            key=lambda entry: (
                entry[1].was_built_here,
                version_order(entry[1].version),
                entry[1].built_at,
            ),
            reverse=True,
        )
        return found

    def builds_under_way(self) -> Iterator[Path]:
        """Folders with objects of builds that have begun, and are not complete."""
        yield from self.work.glob("*/objects")
        yield from self.work.glob("*/source/objects")

    def find(self, name: str | None) -> Kernel:
        """See the function `find`."""
        attempt = f"use the lab kernel {name}" if name else "find a lab kernel"
        entries = [
            entry
            for entry in self.entries()
            if (entry[1].is_plain if name is None else entry[1].name == name)
        ]
        usable = [entry for entry in entries if is_current(entry[1])]
        if not usable:
            others = sorted({manifest.name for _, manifest in self.entries()})
            cause = (
                f"none is built{f' (there are: {chr(44).join(others)})' if others else ''}"
                if not entries
                else "it was built from another configuration than this pyvmm's"
                if not _is_change(name)
                else "it was built from another configuration, or another change, than this pyvmm's"
            )
            raise HostLacksError(attempt, cause, _remedy(name))
        return self.open(*usable[0])

    def open(self, folder: Path, manifest: Manifest) -> Kernel:
        """The kernel of the entry, once its file is what the manifest says.

        Raises `CorruptEntryError` and removes the entry otherwise.
        """
        path = folder / manifest.image
        try:
            intact = path.stat().st_size == manifest.size and sha256(path) == manifest.sha256
        except OSError:
            intact = False
        if not intact:
            self.remove(folder)
            raise CorruptEntryError(
                f"use the lab kernel {manifest.name}",
                f"the copy in the cache ({path}) was damaged and is now removed",
                _remedy(manifest.name),
            )
        return Kernel(manifest.name, path, manifest)

    def remove(self, folder: Path) -> None:
        """Take an entry away: at once for those who look, then its bytes."""
        trash = folder.with_name(f".removed-{os.getpid()}-{folder.name}")
        try:
            folder.rename(trash)
        except FileNotFoundError:
            return
        except OSError:
            trash = folder
        shutil.rmtree(trash, ignore_errors=True)

    def publish(self, key: str, image: Path, manifest: Manifest) -> Kernel:
        """Make `image`, a file on the same file system, the entry `key`. The file is moved.

        Raises `SystemCallError`.
        """
        folder = self.kernels / key
        fresh = self.kernels / f".new-{os.getpid()}-{key}"
        try:
            fresh.mkdir(parents=True)
            image.rename(fresh / manifest.image)
            (fresh / _MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
            for path in (fresh / manifest.image, fresh / _MANIFEST):
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            self.remove(folder)
            fresh.rename(folder)
        except OSError as error:
            shutil.rmtree(fresh, ignore_errors=True)
            raise system_call_error(f"put a kernel into {self.kernels}", error) from error
        return Kernel(manifest.name, folder / manifest.image, manifest)

    @contextmanager
    def locked(self, on_wait: Callable[[str], None]) -> Iterator[int]:
        """Be the only one who writes to the cache. `on_wait` is told whom it waits for, if it must.

        The value is the lock's descriptor: children that inherit it keep the cache locked until
        they are gone, even if this process is killed. Raises `SystemCallError`.
        """
        path = self.root / "lock"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            remedy = "set XDG_CACHE_HOME to a folder of yours that can be written to"
            raise system_call_error(f"open {path}", error, remedy) from error
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(lock, 64, 0).decode("ascii", "replace").strip()
                on_wait(f"another pyvmm lab build is at work (process {holder}): waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
            self._sweep()
            yield lock
        finally:
            os.close(lock)

    def _sweep(self) -> None:
        """Remove what processes that were killed left half done."""
        for pattern in (".new-*", ".removed-*"):
            for leftover in self.kernels.glob(pattern):
                shutil.rmtree(leftover, ignore_errors=True)


def sha256(path: Path) -> str:
    """Of the file's bytes, in hexadecimal. Raises `OSError`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_current(manifest: Manifest) -> bool:
    """True if this pyvmm has the configuration, and the change, that the kernel is built from."""
    if manifest.config_hash not in ("", lab_fragment().hash):
        return False
    name = manifest.change.partition(" ")[0]
    return not name or (_is_change(name) and known_changes.named(name).identity == manifest.change)


def _is_change(name: str | None) -> TypeGuard[str]:
    return name is not None and name in known_changes.names()


def _remedy(name: str | None) -> str:
    if name is None:
        return "run pyvmm lab build"
    return f"run pyvmm lab build {'--with' if _is_change(name) else '--kernel'} {name}"


def _read_manifest(folder: Path) -> Manifest | None:
    if folder.name.startswith("."):
        return None
    try:
        return Manifest.from_json((folder / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
