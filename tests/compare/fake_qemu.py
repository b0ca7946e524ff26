# SPDX-License-Identifier: MIT
"""Programs that are no QEMU, or not quite."""

from __future__ import annotations

import textwrap
from pathlib import Path

# QMP's descriptor is the one named in the last but two arguments.
_BEGIN = """\
#!/bin/bash
fd=$(echo "$*" | sed 's/.*id=pyvmm-qmp,fd=\\([0-9]*\\).*/\\1/')
"""


def fake(folder: Path, body: str) -> str:
    """A program that does `body`, a shell script which knows $fd; its path."""
    path = folder / "fake-qemu"
    path.write_text(_BEGIN + textwrap.dedent(body))
    path.chmod(0o755)
    return str(path)


def changed(folder: Path, body: str) -> str:
    """QEMU itself, unless `body`, a shell script that knows $*, ends before it is reached."""
    return fake(folder, textwrap.dedent(body) + '\nexec qemu-system-x86_64 "$@"\n')
