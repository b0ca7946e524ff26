# SPDX-License-Identifier: MIT
"""``pyvmm lab build``: from a name, a source or a file to an entry in the cache."""

from __future__ import annotations

import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pyvmm.errors import HostLacksError, UsageError
from pyvmm.lab.kernel import making, packages
from pyvmm.lab.kernel import source as sources
from pyvmm.lab.kernel.cache import Cache, entry_key, sha256
from pyvmm.lab.kernel.children import Children
from pyvmm.lab.kernel.configuration import Fragment, lab_fragment
from pyvmm.lab.kernel.debian import PrivateApt
from pyvmm.lab.kernel.failures import CorruptEntryError, KernelBuildError, system_call_error
from pyvmm.lab.kernel.image import recognise
from pyvmm.lab.kernel.manifest import Kernel, Manifest, series
from pyvmm.lab.kernel.progress import Progress

DEFAULT_NAME = "7.3"

GIB = 1 << 30
SPACE_TO_UNPACK = 5 * GIB // 4
SPACE_FOR_TREE = GIB // 2
"""Bytes that must be free: for package, source and objects together, and for objects alone."""

_NO_SPACE_LEFT = 16 << 20

_NOT_PLAIN = re.compile(r"[^\w./@+=~-]")

Prove = Callable[[Path], Mapping[str, int]]
"""Starts a kernel in a lab; what its KVM offers. Raises `HostLacksError` if that is too little."""


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """Request for a build: a series of kernels by `name` (None: `DEFAULT_NAME`), or the one whose
    source is in the folder or tarball `source`. `again` looks for a newer source though there is a
    kernel.
    """

    jobs: int
    name: str | None = None
    source: Path | None = None
    again: bool = False


@dataclass(frozen=True, slots=True)
class _Setting:
    cache: Cache
    progress: Progress
    fragment: Fragment
    compiler: str


def default_jobs() -> int:
    """As many compilers at a time as this process may use CPUs."""
    return len(os.sched_getaffinity(0))


def build(request: BuildRequest, cache: Cache, progress: Progress) -> Kernel:
    """The kernel, built if the cache does not have it.

    An interrupted build leaves what it has in the cache, and the next call goes on from there.
    Raises errors of the tree, before anything is fetched where the kernel cannot be built in the
    cache's folder; on `KeyboardInterrupt` no child is left.
    """
    fragment = lab_fragment()
    if platform.machine() != "x86_64":
        raise HostLacksError(
            "build a lab kernel", f"this is a {platform.machine()} host, and the lab's is x86-64"
        )
    if not cache.entries():
        _require_plain_paths(request, cache)
    with cache.locked(progress.say) as lock:
        packages.ensure(progress.say)
        compiler = packages.compiler_version()
        if request.source is None and not request.again:
            kernel = _cached(cache, request.name or DEFAULT_NAME, fragment, compiler, progress)
            if kernel is not None:
                return kernel
        _require_plain_paths(request, cache)
        children = Children(lock, cache.work / "apt.log")
        if request.source is not None:
            unpacked = request.source.is_dir()
            _require_space(cache, SPACE_FOR_TREE if unpacked else SPACE_TO_UNPACK)
            source = sources.from_path(request.source)
        else:
            _require_space(cache, SPACE_TO_UNPACK)
            source = _from_debian(request.name or DEFAULT_NAME, cache, children, progress)
        setting = _Setting(cache, progress, fragment, compiler)
        return _build(request, source, setting, children)


def _require_plain_paths(request: BuildRequest, cache: Cache) -> None:
    _require_plain(cache.work, "set XDG_CACHE_HOME to another folder")
    if request.source is not None and request.source.is_dir():
        _require_plain(request.source, "move it")


def _require_plain(path: Path, remedy: str) -> None:
    """Raise `UsageError` where `path` has what the kernel's Makefiles, or make itself, trip over.

    The top-level Makefile refuses spaces and colons, once the source has been fetched and unpacked.
    """
    resolved = str(path.resolve())
    odd = sorted(set(_NOT_PLAIN.findall(resolved)))
    if odd:
        raise UsageError(
            "build a lab kernel",
            f"the kernel's build does not work in {resolved}, for {' '.join(map(repr, odd))} in it",
            remedy,
        )


def take_over(path: Path, cache: Cache, progress: Progress, prove: Prove | None) -> Kernel:
    """Put a kernel that the user has into the cache, under its release; after `prove`, if given.

    Raises what `recognise` and `prove` do, and `SystemCallError`.
    """
    image = recognise(path)
    with cache.locked(progress.say):
        offers = None
        if prove is not None:
            with progress.stage(f"asking Linux {image.release} what it offers", None, ""):
                offers = dict(prove(path))
        copy = cache.work / f"taken-over-{os.getpid()}"
        try:
            cache.work.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            manifest = _manifest(image.release, image.release, str(path.resolve()), copy)
        except OSError as error:
            copy.unlink(missing_ok=True)
            raise system_call_error(f"copy {path} into the cache", error) from error
        manifest = replace(manifest, image=image.kind.value, offers=offers)
        key = entry_key(manifest.name, manifest.version, "file", "", "")
        return cache.publish(key, copy, manifest)


def _cached(
    cache: Cache, name: str, fragment: Fragment, compiler: str, progress: Progress
) -> Kernel | None:
    for folder, manifest in cache.entries():
        if (manifest.name, manifest.config_hash, manifest.compiler) == (
            name, fragment.hash, compiler,
        ):  # fmt: skip
            try:
                return cache.open(folder, manifest)
            except CorruptEntryError as error:
                progress.say(f"{error.cause}: building it again")
    return None


def _from_debian(name: str, cache: Cache, children: Children, progress: Progress) -> sources.Source:
    apt = PrivateApt(cache.root / "apt", children, progress)
    wanted = apt.look_up(name)
    return sources.Source(
        f"{wanted.package} {wanted.version}",
        wanted.kernel_version,
        archive=apt.download(wanted, cache.downloads),
    )


def _build(
    request: BuildRequest, source: sources.Source, setting: _Setting, children: Children
) -> Kernel:
    cache, progress = setting.cache, setting.progress
    fragment, compiler = setting.fragment, setting.compiler
    stem = request.name or (series(source.version) if source.version else "source")
    work = cache.work / entry_key(stem, source.version, source.identity, fragment.hash, compiler)
    children = replace(children, log=work / "make.log")
    try:
        tree_folder = sources.unpack(source, work / "source", children, progress)
        version = sources.kernel_version(tree_folder, f"use the kernel source {source.identity}")
        name = request.name or series(version)
        key = entry_key(name, version, source.identity, fragment.hash, compiler)
        for folder, manifest in cache.entries():
            if folder.name == key and not _damaged(cache, folder, manifest):
                progress.say(f"Linux {version} is built already")
                return Kernel(name, folder / manifest.image, manifest)
        tree = making.Tree(tree_folder, work / "objects", request.jobs)
        making.configure(tree, fragment, children, progress)
        begin = time.monotonic()
        objects = making.compile_kernel(tree, _expected(cache, name), children, progress)
        seconds = time.monotonic() - begin
        image = work / making.IMAGE
        making.strip(tree, image, children)
        recognise(image)
        manifest = replace(
            _manifest(name, version, source.identity, image),
            config_hash=fragment.hash,
            compiler=compiler,
            build_seconds=round(seconds, 1),
            objects=objects,
        )
        kernel = cache.publish(key, image, manifest)
    except (OSError, KernelBuildError) as error:
        _explain_space(cache, error)
        raise
    with progress.stage("tidying up", None, ""):
        shutil.rmtree(work, ignore_errors=True)
        for folder, manifest in cache.entries():
            if manifest.name == name and manifest.was_built_here and folder.name != key:
                cache.remove(folder)
    return kernel


def _damaged(cache: Cache, folder: Path, manifest: Manifest) -> bool:
    try:
        cache.open(folder, manifest)
    except CorruptEntryError:
        return True
    return False


def _expected(cache: Cache, name: str) -> int | None:
    known = [manifest.objects for _, manifest in cache.entries() if manifest.name == name]
    return next(filter(None, known), None) or making.EXPECTED_OBJECTS.get(name)


def _manifest(name: str, version: str, source: str, image: Path) -> Manifest:
    return Manifest(
        name=name,
        version=version,
        source=source,
        config_hash="",
        compiler="",
        image=image.name,
        sha256=sha256(image),
        size=image.stat().st_size,
        built_at=datetime.now(UTC).isoformat(timespec="seconds"),
        build_seconds=0.0,
        objects=0,
    )


def _require_space(cache: Cache, needed: int) -> None:
    free = _free(cache)
    # A build that is under way has used part of what it needs.
    if free < needed and not any(cache.work.glob("*/objects")):
        raise HostLacksError(
            "build a lab kernel",
            f"that needs {needed / GIB:.1f} GiB in {cache.root}, and {free / GIB:.1f} GiB are free",
            "make room, or set XDG_CACHE_HOME to a folder elsewhere",
        )


def _explain_space(cache: Cache, error: Exception) -> None:
    if _free(cache) < _NO_SPACE_LEFT or "No space left" in str(error):
        raise HostLacksError(
            "build a lab kernel",
            f"no space is left in {cache.root}",
            "make room and run pyvmm lab build again: it goes on where it was",
        ) from error


def _free(cache: Cache) -> int:
    try:
        return shutil.disk_usage(cache.root).free
    except OSError as error:
        raise system_call_error(f"ask how much space is free in {cache.root}", error) from error
