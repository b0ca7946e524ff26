# SPDX-License-Identifier: MIT
"""Finding the symbols of an image: in it, or in an unstripped ELF file beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pyvmm.errors import ImageError, NoInputError, PyvmmError, UsageError
from pyvmm.testing.images.source_lines import line_finder
from pyvmm.testing.images.symbols import MAGIC, Symbols, is_same_code, read_symbols

MOST_BYTES = 512 << 20
"""Size of a file with symbols, in bytes: an unstripped Linux kernel has less."""


def find_symbols(
    image: bytes, name: str, path: Path | None = None, given: Path | None = None
) -> Symbols:
    """Find the symbols of an image, whose file is `path` where it has one.

    `given` is the file that has them, where a test says so: then errors are raised, `NoInputError`
    or `ImageError`. Otherwise they are in an ELF file of the same code beside the image (its name
    with .elf or .debug, or as ``make -C guest`` leaves it), or in the image; or there are none.
    """
    if given is not None:
        data = _read(given)
        return read_symbols(data, str(given), line_finder(data))
    if image[:4] != MAGIC:
        return Symbols((), name)
    for beside in _beside(path):
        try:
            data = _read(beside)
            if is_same_code(image, data):
                return read_symbols(data, str(beside), line_finder(data))
        except PyvmmError:
            continue  # Nobody has asked for this file.
    try:
        return read_symbols(image, name, line_finder(image))
    except ImageError:
        return Symbols((), name)


def _beside(path: Path | None) -> Iterator[Path]:
    if path is None:
        return
    places = [path.with_suffix(".elf"), path.with_suffix(".debug")]
    folder = path.absolute().parent
    places.append(folder / "objects" / folder.name / path.with_suffix(".elf").name)
    for place in places:
        if place != path and place.is_file():
            yield place


def _read(path: Path) -> bytes:
    attempt = f"read the symbols of {path}"
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UsageError(
                attempt,
                f"it is larger than {MOST_BYTES >> 20} MiB",
                "leave debugging information out (objcopy --strip-debug)",
            )
        return path.read_bytes()
    except OSError as error:
        raise NoInputError(attempt, error.strerror or str(error)) from error
