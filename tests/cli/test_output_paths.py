"""Files that a command writes to are none of those that it reads, whatever they are called."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm.cli.output_paths import refuse_input_files
from pyvmm.errors import UsageError


@pytest.fixture
def read(tmp_path: Path) -> Path:
    path = tmp_path / "read"
    path.write_bytes(b"precious")
    return path


def same(path: Path, tmp_path: Path) -> Path:
    return path


def hard_link(path: Path, tmp_path: Path) -> Path:
    other = tmp_path / "hard"
    other.hardlink_to(path)
    return other


def symbolic_link(path: Path, tmp_path: Path) -> Path:
    other = tmp_path / "symbolic"
    other.symlink_to(path)
    return other


@pytest.mark.parametrize("name", [same, hard_link, symbolic_link])
def test_an_input_by_any_name_is_refused(
    name: Callable[[Path, Path], Path], read: Path, tmp_path: Path
) -> None:
    with open(name(read, tmp_path), "r+b") as file, pytest.raises(UsageError, match="is read as"):
        refuse_input_files(file.fileno(), "write there", [None, tmp_path / "gone", read])


def test_other_files_and_devices_are_not(read: Path, tmp_path: Path) -> None:
    with open(tmp_path / "other", "wb") as file, open(os.devnull, "wb") as null:
        refuse_input_files(file.fileno(), "write there", [read, Path("a\0b")])
        refuse_input_files(null.fileno(), "write there", [Path(os.devnull)])
