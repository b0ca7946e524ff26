# SPDX-License-Identifier: MIT
"""Compiling a kernel from its source: as that is, or with a change of ours.

The second begins with a copy of what the first has left.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pyvmm.lab.kernel import making
from pyvmm.lab.kernel import source as sources
from pyvmm.lab.kernel.cache import Cache, entry_key, sha256
from pyvmm.lab.kernel.children import Children
from pyvmm.lab.kernel.configuration import Fragment
from pyvmm.lab.kernel.failures import CorruptEntryError
from pyvmm.lab.kernel.image import recognise
from pyvmm.lab.kernel.known_changes import Change
from pyvmm.lab.kernel.manifest import Kernel, Manifest, series
from pyvmm.lab.kernel.progress import Progress
from pyvmm.lab.kernel.source import Source
from pyvmm.lab.kernel.source_editor import SourceEditor
from pyvmm.lab.kernel.work_tree import WorkTree, copy_tree, put_paths_right


@dataclass(frozen=True, slots=True)
class Setting:
    """Everything but the source that a build is made of; the cache is locked."""

    cache: Cache
    progress: Progress
    fragment: Fragment
    compiler: str
    jobs: int
    children: Children

    def key(self, name: str, version: str, source: str) -> str:
        """See `entry_key`."""
        return entry_key(name, version, source, self.fragment.hash, self.compiler)

    def logging_to(self, site: WorkTree) -> Setting:
        """The same, with make's log in that folder."""
        return replace(self, children=replace(self.children, log=site.folder / "make.log"))


@dataclass(frozen=True, slots=True)
class Subject:
    """Kernel to be: see `Manifest` for the three."""

    name: str
    version: str
    source: str


def build_plain(
    source: Source, name: str | None, setting: Setting, *, for_its_objects: bool = False
) -> Kernel:
    """The kernel of `source`, called `name` or as its series; compiled if it is not there.

    `for_its_objects`: compiled, too, where they are not there. Raises errors of the tree, and
    `OSError` where the cache's files are in a bad way.
    """
    cache, progress = setting.cache, setting.progress
    site = _site(source, name, setting)
    setting = setting.logging_to(site)
    folder, version = _unpacked(source, site, setting)
    subject = Subject(name or series(version), version, source.identity)
    key = setting.key(subject.name, version, source.identity)
    kernel = built_already(cache, key)
    if kernel is not None and (site.is_kept or not for_its_objects):
        progress.say(f"Linux {version} is built already")
        return kernel
    tree = making.Tree(folder, site.objects, setting.jobs)
    image = site.folder / making.IMAGE
    manifest = compile_image(tree, image, subject, setting)
    kernel = cache.publish(key, image, manifest)
    with progress.stage("tidying up", None, ""):
        site.keep()
        remove_older(cache, kernel, key)
    return kernel


def build_changed(source: Source, name: str | None, change: Change, setting: Setting) -> Kernel:
    """The kernel of `source` with `change`; from the objects of the one without it, called `name`.

    Raises as `build_plain`, and `ChangeDoesNotFitError` before anything is compiled.
    """
    cache, progress = setting.cache, setting.progress
    site = _site(source, name, setting)
    folder, version = _unpacked(source, site, setting.logging_to(site))
    change.make(SourceEditor(folder, version, change.name))
    subject = Subject(change.name, version, f"{source.identity} with {change.identity}")
    key = setting.key(subject.name, version, subject.source)
    kernel = built_already(cache, key)
    if kernel is not None:
        progress.say(f"Linux {version} with {change.name} is built already")
        return kernel
    if not site.is_kept:
        build_plain(source, name, setting, for_its_objects=True)
    copy = WorkTree(cache, key)
    setting = setting.logging_to(copy)
    if not copy.source.is_dir():
        with progress.stage(f"copying Linux {version} and its objects", None, ""):
            fresh = copy_tree(site.source, copy.source.with_suffix(".new"), setting.children)
            editor = SourceEditor(fresh, version, change.name)
            change.make(editor)
            editor.write()
            put_paths_right(fresh, site.source, copy.source)
            fresh.rename(copy.source)
    tree = making.Tree(copy.source, copy.objects, setting.jobs, is_complete=True)
    image = copy.folder / making.IMAGE
    manifest = compile_image(tree, image, subject, setting)
    kernel = cache.publish(key, image, replace(manifest, change=change.identity))
    with progress.stage("tidying up", None, ""):
        copy.discard()
        remove_older(cache, kernel, key)
    return kernel


def _site(source: Source, name: str | None, setting: Setting) -> WorkTree:
    stem = name or (series(source.version) if source.version else "source")
    key = setting.key(stem, source.version, source.identity)
    return WorkTree(setting.cache, key)


def _unpacked(source: Source, site: WorkTree, setting: Setting) -> tuple[Path, str]:
    """Return the folder of the source, and the kernel's version."""
    folder = sources.unpack(source, site.source, setting.children, setting.progress)
    return folder, sources.kernel_version(folder, f"use the kernel source {source.identity}")


def compile_image(
    tree: making.Tree, image: Path, subject: Subject, setting: Setting, *, is_own: bool = False
) -> Manifest:
    """Make the file `image`, and return all that is to be said about it.

    `is_own`: see `making.configure`. Raises `KernelBuildError`, `ImageError`, `SystemCallError`,
    and `OSError`.
    """
    children, progress = setting.children, setting.progress
    making.configure(tree, setting.fragment, children, progress, is_own=is_own)
    begin = time.monotonic()
    expected = None if tree.is_complete else _expected(setting.cache, subject.name)
    objects = making.compile_kernel(tree, expected, children, progress)
    seconds = time.monotonic() - begin
    making.strip(tree, image, children)
    recognise(image)
    return replace(
        new_manifest(subject.name, subject.version, subject.source, image),
        config_hash=setting.fragment.hash,
        compiler=setting.compiler,
        build_seconds=round(seconds, 1),
        objects=objects,
    )


def remove_older(cache: Cache, kernel: Kernel, key: str) -> None:
    """Remove other kernels that were built under the same name: `key` is the one that stays."""
    for folder, manifest in cache.entries():
        if manifest.name == kernel.name and manifest.was_built_here and folder.name != key:
            cache.remove(folder)


def built_already(cache: Cache, key: str) -> Kernel | None:
    """The entry `key`, if it is there and undamaged."""
    for folder, manifest in cache.entries():
        if folder.name == key:
            try:
                return cache.open(folder, manifest)
            except CorruptEntryError:
                return None
    return None


def _expected(cache: Cache, name: str) -> int | None:
    known = [manifest.objects for _, manifest in cache.entries() if manifest.name == name]
    return next(filter(None, known), None) or making.EXPECTED_OBJECTS.get(name)


def new_manifest(name: str, version: str, source: str, image: Path) -> Manifest:
    """The manifest of a kernel that was not compiled here: the file `image`."""
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
