# SPDX-License-Identifier: MIT
"""Whole processes, measured from outside by launch.c."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from benchmarks import baselines


def environment() -> dict[str, str]:
    """This process's, without what would keep Python from writing and using .pyc files."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def launched(
    command: Sequence[str], out: Path, env: dict[str, str] | None = None
) -> dict[str, float]:
    """What running `command` cost, by launch.c; its standard output goes to `out`."""
    launch = baselines.compiled("launch")
    return baselines.called(launch, out, *command, env=env or environment())
