# SPDX-License-Identifier: MIT
"""Edits of a kernel's source tree: prepared in memory, each at a place that is there once."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from pyvmm.lab.kernel.failures import ChangeDoesNotFitError, system_call_error

_SHOWN = 60


class SourceEditor:
    """Edits of the tree in the folder `root`, of Linux `version`, which make the change `name`.

    Paths are relative to `root`. An anchor is text that its file has exactly once, of any length:
    part of a line, or several. Later edits see what earlier ones have made of a file. Files change
    when `write` is called, and not before. All edits raise `ChangeDoesNotFitError`.
    """

    def __init__(self, root: Path, version: str, name: str) -> None:
        self.root = root
        self.version = version
        self.name = name
        self._texts: dict[str, str] = {}

    def after(self, path: str, anchor: str, text: str) -> None:
        """Put `text` right behind `anchor`: for new lines, anchor and text end with a newline."""
        at = self._find(path, anchor) + len(anchor)
        self._splice(path, at, at, text)

    def before(self, path: str, anchor: str, text: str) -> None:
        """Put `text` right before `anchor`."""
        at = self._find(path, anchor)
        self._splice(path, at, at, text)

    def replace(self, path: str, old: str, new: str) -> None:
        """Put `new` in the place of `old`, which is an anchor itself."""
        at = self._find(path, old)
        self._splice(path, at, at + len(old), new)

    def cut(self, path: str, first: str, stop: str) -> None:
        """Take away what is between two anchors: `first` goes, too, and `stop` stays."""
        begin, end = self._find(path, first), self._find(path, stop)
        if end < begin + len(first):
            raise self._misfit(f"{path} has {_short(stop)} before {_short(first)}")
        self._splice(path, begin, end, "")

    def create(self, path: str, text: str) -> None:
        """Make a file that is not there."""
        if path in self._texts or os.path.lexists(self._inside(path)):
            raise self._misfit(f"there is a {path} already")
        self._texts[path] = text

    @property
    def paths(self) -> list[str]:
        """Files that have been edited or created."""
        return sorted(self._texts)

    def write(self) -> None:
        """Put all edits into the tree. Raises `SystemCallError`.

        A file is replaced as a whole, and so stays as it is where it has another name (hard link).
        """
        for path, text in self._texts.items():
            target = self._inside(path)
            fresh = target.with_name(f".{target.name}.pyvmm-{os.getpid()}")
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                fresh.write_text(text, encoding="utf-8", errors="surrogateescape")
                fresh.replace(target)
            except OSError as error:
                fresh.unlink(missing_ok=True)
                raise system_call_error(f"write {target}", error) from error

    def _find(self, path: str, anchor: str) -> int:
        text = self._text(path)
        found = text.count(anchor) if anchor else 0
        if found != 1:
            times = "not there" if not found else f"there {found} times"
            raise self._misfit(f"in {path}, {_short(anchor)} is {times}")
        return text.index(anchor)

    def _splice(self, path: str, begin: int, end: int, text: str) -> None:
        old = self._text(path)
        self._texts[path] = old[:begin] + text + old[end:]

    def _text(self, path: str) -> str:
        if path not in self._texts:
            try:
                # Bytes that are no UTF-8, as names in old comments are, come out as they went in.
                data = self._inside(path).read_bytes()
            except OSError as error:
                raise self._misfit(f"{path}: {error.strerror}") from error
            return data.decode("utf-8", "surrogateescape")
        return self._texts[path]

    def _inside(self, path: str) -> Path:
        parts = PurePosixPath(path)
        if parts.is_absolute() or ".." in parts.parts:
            raise self._misfit(f"{path} is no path inside of the source")
        return self.root / parts

    def _misfit(self, cause: str) -> ChangeDoesNotFitError:
        return ChangeDoesNotFitError(
            f"make the change {self.name} to Linux {self.version}",
            cause,
            "it does not fit this version: choose the series that it is for (--kernel), or adapt "
            "its file in pyvmm/lab/kernel/changes",
        )


def _short(anchor: str) -> str:
    """An anchor in one line of a message."""
    line = " ".join(anchor.split())
    return f"'{line if len(line) <= _SHOWN else line[: _SHOWN - 3] + '...'}'"
