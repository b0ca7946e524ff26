# SPDX-License-Identifier: MIT
"""``pyvmm lab build``: from a name, a source or a file to an entry in the cache."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pyvmm.errors import HostLacksError
from pyvmm.lab.kernel import packages
from pyvmm.lab.kernel import source as sources
from pyvmm.lab.kernel.cache import Cache, entry_key
from pyvmm.lab.kernel.children import Children
from pyvmm.lab.kernel.compiling import Setting, build_changed, build_plain, new_manifest
from pyvmm.lab.kernel.configuration import Fragment, lab_fragment
from pyvmm.lab.kernel.debian import PrivateApt
from pyvmm.lab.kernel.failures import CorruptEntryError, KernelBuildError, system_call_error
from pyvmm.lab.kernel.image import recognise
from pyvmm.lab.kernel.known_changes import Change
from pyvmm.lab.kernel.manifest import Kernel, series
from pyvmm.lab.kernel.own_tree import OwnTree, build_own
from pyvmm.lab.kernel.places import (
    SPACE_FOR_TREE,
    SPACE_TO_UNPACK,
    explain_space,
    require_plain,
    require_space,
)  # fmt: skip
from pyvmm.lab.kernel.progress import Progress

DEFAULT_NAME = "7.3"

Prove = Callable[[Path], Mapping[str, int]]
"""Starts a kernel in a lab; what its KVM offers. Raises `HostLacksError` if that is too little."""


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """Request for a build: a series of kernels by `name` (None: `DEFAULT_NAME`), or the one whose
    source is in the tarball `source`, or in the user's folder `own`. `again` looks for a newer
    source though there is a kernel. With `change`, that kernel with the change, which is called as
    the change; the series is by default the one that the change is for.
    """

    jobs: int
    name: str | None = None
    source: Path | None = None
    again: bool = False
    change: Change | None = None
    own: OwnTree | None = None

    @property
    def series(self) -> str:
        """Name of the series whose source Debian is asked for."""
        return self.name or (DEFAULT_NAME if self.change is None else self.change.fits)


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
        if request.source is None and request.own is None and not request.again:
            kernel = _cached(request, cache, fragment, compiler, progress)
            if kernel is not None:
                return kernel
        _require_plain_paths(request, cache)
        children = Children(lock, cache.work / "apt.log")
        setting = Setting(cache, progress, fragment, compiler, request.jobs, children)
        require_space(cache, SPACE_TO_UNPACK if request.own is None else SPACE_FOR_TREE)
        try:
            if request.own is not None:
                return build_own(request.own, setting)
            if request.source is not None:
                source = sources.from_path(request.source)
            else:
                source = _from_debian(request.series, cache, children, progress)
            if request.change is not None:
                return build_changed(source, request.name, request.change, setting)
            return build_plain(source, request.name, setting)
        except (OSError, KernelBuildError) as error:
            explain_space(cache, error)
            raise


def _require_plain_paths(request: BuildRequest, cache: Cache) -> None:
    require_plain(cache.work, "set XDG_CACHE_HOME to another folder")
    if request.own is not None:
        require_plain(request.own.path, "move it")


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
            manifest = new_manifest(image.release, image.release, str(path.resolve()), copy)
        except OSError as error:
            copy.unlink(missing_ok=True)
            raise system_call_error(f"copy {path} into the cache", error) from error
        manifest = replace(manifest, image=image.kind.value, offers=offers)
        key = entry_key(manifest.name, manifest.version, "file", "", "")
        return cache.publish(key, copy, manifest)


def _cached(
    request: BuildRequest, cache: Cache, fragment: Fragment, compiler: str, progress: Progress
) -> Kernel | None:
    change = request.change
    wanted = (request.series, "") if change is None else (change.name, change.identity)
    for folder, manifest in cache.entries():
        if (
            (manifest.name, manifest.change) == wanted
            and (manifest.config_hash, manifest.compiler) == (fragment.hash, compiler)
            and (change is None or series(manifest.version) == request.series)
        ):
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
