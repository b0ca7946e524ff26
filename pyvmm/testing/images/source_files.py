# SPDX-License-Identifier: MIT
"""Source files of guests, by the names that their compiler was told.

A guest says these names, and lines of the files become part of reports, which others read. So only
files of the tests' own trees are looked at, wherever a name or a symbolic link leads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

LEVELS = 6
"""Folders above the image that are looked into."""
MOST_BYTES = 4 << 20
"""Size of a source file that is shown, in bytes."""
MOST_COLUMNS = 1000
"""Letters of a line that are shown."""
_MOST_KEPT = 16 << 20
"""Bytes of files whose lines are kept, so that each is read once."""
_MARKS = (".git", "Makefile")
"""Names in a folder that is, or is within, the tree that an image was built in."""


class SourceFiles:
    """Source files of the guest of one image, as the file system has them at the first look.

    They are below pytest's root folder, the image's folder, or the tree that this is in: the
    outermost folder above it that has a ``.git`` or a ``Makefile``. Hidden files and folders, which
    may hold credentials, are none; nor is the whole file system ever such a tree.
    """

    def __init__(self, image: Path, root: Path) -> None:
        self._above = tuple(image.absolute().parents[:LEVELS])
        self._places = (*self._above, root)
        self._trees: tuple[Path, ...] | None = None
        self._root = root
        self._found: dict[str, Path | None] = {}
        self._lines: dict[Path, list[str]] = {}
        self._kept = 0

    def find(self, file: str) -> Path | None:
        """Find the file that the guest calls `file`, resolved; None where it is not one of them.

        A guest is built in its source tree or in a folder of it, so a relative name is looked for
        in the image's folder, in those above it, and at last in the root folder.
        """
        if file not in self._found:
            self._found[file] = next(self._files(file), None) if file else None
        return self._found[file]

    def lines(self, path: Path) -> list[str]:
        """Lines of a file that `find` gave; none of one that is too long or cannot be read."""
        lines = self._lines.get(path)
        if lines is None:
            content = _read(path)
            if self._kept + len(content) > _MOST_KEPT:
                self._lines.clear()
                self._kept = 0
            self._kept += len(content)
            lines = self._lines[path] = content.decode("utf-8", "replace").splitlines()
        return lines

    def _files(self, file: str) -> Iterator[Path]:
        for place in self._places:
            path = _resolved(place / file)  # `file`, where it is absolute
            if path is not None and path.is_file() and self._is_ours(path):
                yield path

    def _is_ours(self, path: Path) -> bool:
        if self._trees is None:
            self._trees = tuple(self._find_trees())
        for tree in self._trees:
            if path.is_relative_to(tree):
                return not any(part.startswith(".") for part in path.relative_to(tree).parts)
        return False

    def _find_trees(self) -> Iterator[Path]:
        home = Path(os.path.expanduser("~"))  # noqa: PTH111 - does not raise where there is none
        built = [
            each
            for each in self._above
            if each != home and any((each / mark).exists() for mark in _MARKS)
        ]
        for tree in (*built[-1:], *self._above[:1], self._root):
            resolved = _resolved(tree)
            if resolved is not None and resolved != Path(resolved.anchor):
                yield resolved


def _resolved(path: Path) -> Path | None:
    """`path` without symbolic links; None where there is none, or no file can have that name."""
    try:
        return Path(os.path.realpath(path, strict=True))
    except (OSError, ValueError):
        return None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError:
        return b""
    return content if len(content) <= MOST_BYTES else b""
