"""Files that a command writes to: none of them is one that it reads."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from pyvmm.errors import UsageError


def refuse_input_files(fd: int, attempt: str, inputs: Iterable[Path | None]) -> None:
    """See that `fd`, open for writing, is none of the regular files `inputs` (None: not given).

    Files are told apart by device and inode, so another name, a symbolic or a hard link is no
    other file. To be called before anything is written or cut off. `attempt` is what the command
    tries with `fd`. Raises `UsageError`.
    """
    ours = os.fstat(fd)
    if not stat.S_ISREG(ours.st_mode):
        return
    for path in inputs:
        if path is not None and _is_same(ours, path):
            raise UsageError(
                attempt, f"that is the file that is read as {path}", "name another file"
            )


def _is_same(ours: os.stat_result, path: Path) -> bool:
    try:
        return os.path.samestat(ours, path.stat())
    except (OSError, ValueError):  # Gone, or no name of a file: nothing can be lost there.
        return False
