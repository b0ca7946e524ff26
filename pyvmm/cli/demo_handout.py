# SPDX-License-Identifier: MIT
"""``pyvmm demo --html FILE``: a run as one file, which is written whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from pyvmm.cli.output_paths import NamedFile
from pyvmm.cli.standard_output import print_answer
from pyvmm.cli.story_files import check_outputs, write_text
from pyvmm.demo.chapters import BOOK
from pyvmm.demo.page.handout import ToldChapter, handout_html
from pyvmm.demo.page.static_files import script, style
from pyvmm.errors import SystemCallError

_ROLE = "the hand-out"


class Handout:
    """A file to be written, and what is to be told in it.

    Raises `UsageError`, `NoPermissionError` or `SystemCallError` for a file that cannot be written,
    before anything is done.
    """

    def __init__(self, name: str) -> None:
        self._path = Path(name)
        self.told: Sequence[ToldChapter] = ()
        check_outputs([NamedFile(_ROLE, self._path)])

    def write(self) -> bool:
        """Write the file; gives False where it does not tell all.

        That is where a chapter was not told to its end, or no answer of a question came true.
        Raises `SystemCallError`.
        """
        text = handout_html(self.told, script=script(), style=style(), terms=BOOK.glossary)
        _write_whole(self._path, text)
        moments = [moment for one in self.told for moment in one.moments]
        size = -(-len(text.encode()) // 1024)
        print_answer(f"{self._path}: {len(moments)} steps, {size} KiB")
        for one in self.told:
            if one.ended:
                print_answer(f"{one.chapter.id} was not told to its end: {one.ended}")
        has_end = not any(one.ended for one in self.told)
        return has_end and all(m.came_true is not None or m.question is None for m in moments)


def _write_whole(path: Path, text: str) -> None:
    """Write a file beside `path`, and put it there when it is complete.

    What is no regular file, or in a folder that takes no other file, is written where it is.
    """
    attempt = f"write {_ROLE} to {path}"
    place = path.resolve()
    mode = place.stat().st_mode if place.exists() else None
    beside = place.with_name(f".{place.name[:100]}.{os.getpid()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        if mode is not None and not stat.S_ISREG(mode):
            raise PermissionError
        fd = os.open(beside, flags, 0o666)
    except PermissionError:
        write_text(NamedFile(_ROLE, path), text)
        return
    except OSError as error:
        raise _error(attempt, error) from error
    try:
        with os.fdopen(fd, "wb") as stream:
            stream.write(text.encode())
            if mode is not None:
                os.fchmod(fd, stat.S_IMODE(mode))
        beside.replace(place)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise _error(attempt, error) from error
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _error(attempt: str, error: OSError) -> SystemCallError:
    return SystemCallError(attempt, error.errno or 0, error.strerror or str(error))
