# SPDX-License-Identifier: MIT
"""The folder of a matrix's artifacts: one for each boot, written as its result comes."""

from __future__ import annotations

import json
import os
from pathlib import Path

from pyvmm.errors import SystemCallError
from pyvmm.testing.matrix.json_report import result_to_json
from pyvmm.testing.matrix.results import BootResult

CONSOLE = "console.log"
RESULT = "result.json"


class ArtifactFolder:
    """``FOLDER/image/64M-1cpu-kvm/``: the console's bytes, the result, and what else there is."""

    def __init__(self, path: Path) -> None:
        """Make the folder `path` where there is none. Raises `SystemCallError`."""
        self._path = path
        self.failure: SystemCallError | None = None
        """The first error in writing: the boots go on without."""
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            raise _failure(path, error) from error

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


def _failure(path: Path, error: OSError | ValueError) -> SystemCallError:
    if isinstance(error, OSError):
        return SystemCallError(
            f"write artifacts to {path}", error.errno or 0, error.strerror or str(error)
        )
    return SystemCallError(f"write artifacts to {path}", 0, str(error))
