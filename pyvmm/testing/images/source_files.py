# SPDX-License-Identifier: MIT
"""Source files of guests, by the names that their compiler was told."""

from __future__ import annotations

from pathlib import Path

LEVELS = 6
"""Folders above the image that are looked into."""


def find_source(file: str, image: Path, root: Path) -> Path | None:
    """Find the source file that a guest calls `file`; None where it is not here.

    A guest is built in its source tree or in a folder of it, so a relative name is looked for in
    the image's folder, in those above it, and at last in `root`.
    """
    if not file:
        return None
    places = [*image.absolute().parents[:LEVELS], root]
    for place in places:
        path = place / file  # `file`, where it is absolute
        try:
            if path.is_file():
                return path
        except (OSError, ValueError):  # A name that no file can have.
            return None
    return None
