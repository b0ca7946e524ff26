# SPDX-License-Identifier: MIT
"""The folder of a matrix's artifacts: one for each boot, written as its result comes."""

from __future__ import annotations

import json
import os
from pathlib import Path

from pyvmm.errors import SystemCallError, UsageError
from pyvmm.machine.console.output_file import open_error
from pyvmm.testing.matrix.json_report import result_to_json
from pyvmm.testing.matrix.results import BootResult

CONSOLE = "console.log"
RESULT = "result.json"


class ArtifactFolder:
    """``FOLDER/image/64M-1cpu-kvm/``: the console's bytes, the result, and what else there is."""

    def __init__(self, path: Path) -> None:
        """Make the folder `path` where there is none.

        Raises `UsageError`, `NoPermissionError` or `SystemCallError`.
        """
        self._path = path
        self.failure: SystemCallError | None = None
        """The first error in writing: the boots go on without."""
        try:
            path.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise UsageError(_attempt(path), "it is no directory", "choose another name") from error
        except OSError as error:
            raise open_error(_attempt(path), error) from error

    def write(self, result: BootResult) -> None:
        """Write the files of one boot."""
        folder = self._path / result.key
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / CONSOLE).write_bytes(result.console)
            text = json.dumps(result_to_json(result), indent=1) + "\n"
            (folder / RESULT).write_text(text, encoding="utf-8", errors="backslashreplace")
            for one in result.artifacts:
                (folder / os.path.basename(one.name)).write_bytes(one.content)  # noqa: PTH119
        except OSError as error:
            self.failure = self.failure or _failure(folder, error)


def _attempt(path: Path) -> str:
    return f"write artifacts to {path}"


def _failure(path: Path, error: OSError) -> SystemCallError:
    return SystemCallError(
        _attempt(path),
        error.errno or 0,
        error.strerror or str(error),
        "choose a directory that has room and may be written to",
    )
