# SPDX-License-Identifier: MIT
"""Source and objects of a build in the cache, and copies of them.

Objects are in a folder of the source: then kernel make writes ``..`` wherever it means the source
(its top-level Makefile, `srcroot`), and a copy of both, in any other folder, is up to date. Only
its host tools have makefiles of their own, which write whole paths; those are put right. (objtool
is one of them: if that is made again, all objects are.)
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from pyvmm.lab.kernel.cache import Cache
from pyvmm.lab.kernel.children import Children
from pyvmm.lab.kernel.failures import system_call_error

_OBJECTS = "objects"
_TREE = "tree"
"""File with the path of the user's tree, in a folder of what was made of one."""


class WorkTree:
    """The place of a build whose folder is called `key`: where it is kept, or else under way.

    `tree` is the user's tree that is built there, if it is one.
    """

    def __init__(self, cache: Cache, key: str, tree: Path | None = None) -> None:
        self._cache = cache
        self._key = key
        self._tree = tree

    @property
    def is_kept(self) -> bool:
        """True once the build is complete: its objects are there for others to begin with."""
        return (self._cache.trees / self._key).is_dir()

    @property
    def folder(self) -> Path:
        """Everything of the build."""
        return (self._cache.trees if self.is_kept else self._cache.work) / self._key

    @property
    def source(self) -> Path:
        """Folder for the source, where that is to be unpacked."""
        return self.folder / "source"

    @property
    def objects(self) -> Path:
        """Folder of all that is made."""
        return self.source / _OBJECTS

    def keep(self) -> None:
        """Keep a build that is complete, in place of older ones of its name.

        Those of other trees of a user's stay, as long as the tree does. Raises `SystemCallError`.
        """
        if not self.is_kept:
            kept = self._cache.trees / self._key
            try:
                kept.parent.mkdir(parents=True, exist_ok=True)
                put_paths_right(self.source, self.source, kept / "source")
                self.folder.rename(kept)
            except OSError as error:
                raise system_call_error(f"keep {self.folder}", error) from error
        self._remove_others()

    def discard(self) -> None:
        """Remove it, and what interrupted builds of its name have left."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._remove_others()

    def _remove_others(self) -> None:
        for parent in (self._cache.trees, self._cache.work):
            remove_older_ones(parent / self._key, self._tree)


def mark(folder: Path, tree: Path) -> None:
    """Note in `folder` that what is in it was made of the user's tree `tree`. Raises `OSError`."""
    (folder / _TREE).write_bytes(os.fsencode(tree) + b"\n")


def remove_older_ones(folder: Path, tree: Path | None) -> None:
    """Remove what has the same name as `folder` and another key, and lies beside it.

    What was made of a user's tree (`mark`) stays, if the tree is there and is not `tree`: folders
    of one name may lie in several places.
    """
    same_name = re.compile(re.escape(folder.name.rpartition("-")[0]) + r"-[0-9a-f]{16}")
    for other in list(folder.parent.glob("*")):
        if other.name != folder.name and same_name.fullmatch(other.name):
            marked = _marked(other)
            if marked is None or marked == tree or not marked.is_dir():
                shutil.rmtree(other, ignore_errors=True)


def _marked(folder: Path) -> Path | None:
    try:
        path = (folder / _TREE).read_bytes().removesuffix(b"\n")
    except OSError:
        return None
    return Path(os.fsdecode(path)) if path else None


def copy_tree(source: Path, copy: Path, children: Children) -> Path:
    """Copy a source and the objects in it to the folder `copy`, and return that.

    It is to be renamed, and may be completed before (`put_paths_right`).

    Files of the source get a second name (hard link): nobody may write into one. Objects are
    copied, with their times. Raises `KernelBuildError`, `SystemCallError`.
    """
    try:
        if copy.exists():
            shutil.rmtree(copy)
        copy.mkdir(parents=True)
        members = [str(path) for path in source.iterdir() if path.name != _OBJECTS]
    except OSError as error:
        raise system_call_error(f"copy {source} to {copy}", error) from error
    attempt = f"copy {source}"
    children.run(["cp", "-al", "-t", str(copy), *members], attempt)
    children.run(["cp", "-a", "--reflink=auto", "-t", str(copy), str(source / _OBJECTS)], attempt)
    return copy


def put_paths_right(tree: Path, before: Path, after: Path) -> None:
    """Have the commands that host tools in `tree` were made by name `after` instead of `before`.

    Raises `OSError`.
    """
    old, new = os.fsencode(before), os.fsencode(after)
    for folder, _, files in os.walk(tree / _OBJECTS / "tools"):
        for name in files:
            path = Path(folder, name)
            if name.endswith((".cmd", ".d")) and old in (data := path.read_bytes()):
                path.write_bytes(data.replace(old, new))
