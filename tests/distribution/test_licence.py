# SPDX-License-Identifier: MIT
"""The licence: its text, and the line that says so in every source file."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
TAG = "SPDX-License-Identifier: MIT"
OF_THE_KERNEL = "SPDX-License-Identifier: GPL-2.0-only"
CHANGES = ROOT / "pyvmm/lab/kernel/changes"
"""Changes to the kernel's source, which are under its licence."""
BUILT = {"build", "dist", "cache", "__pycache__"}
"""Folders of what is built, not written; beside them those whose name begins with a dot."""
GENERATED = {"pyvmm/hosts/kvm/_kvm.c"}


def is_source(path: Path) -> bool:
    """Python, C, assembly, linker scripts, Makefiles, and scripts without a suffix."""
    if path.suffix:
        return path.suffix in {".py", ".c", ".h", ".S", ".ld", ".config"}
    with path.open("rb") as file:
        return path.name == "Makefile" or file.read(2) == b"#!"


def sources() -> list[Path]:
    found = []
    for folder, folders, files in os.walk(ROOT):
        here = Path(folder)
        folders[:] = [
            name
            for name in folders
            if name not in BUILT and (not name.startswith(".") or name == ".ci")
        ]
        found += [here / name for name in files if (here / name).is_file()]
    return [
        path
        for path in found
        if path.relative_to(ROOT).as_posix() not in GENERATED and is_source(path)
    ]


def tag_of(path: Path) -> str:
    return OF_THE_KERNEL if path.parent == CHANGES else TAG


def test_every_source_file_names_the_licence_in_its_first_two_lines() -> None:
    every = sources()
    assert {path.suffix for path in every} == {".py", ".c", ".h", ".S", ".ld", ".config", ""}
    assert len(every) > 500
    missing = [
        str(path.relative_to(ROOT))
        for path in every
        if not any(tag_of(path) in line for line in path.read_text("utf-8").split("\n")[:2])
    ]
    assert not missing


def test_the_licence_is_mit() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.startswith("MIT License\n\nCopyright (c) 2026 the pyvmm authors\n")
    assert text.count("\n") == 21
