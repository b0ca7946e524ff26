# SPDX-License-Identifier: MIT
"""A copy of this checkout for programs in a lab: in its memory, where to look at a file is quick.

The root of a lab looks at every file anew, whenever it is asked for, and each look is a round trip
to an emulated device: a third and more of what it takes to load pyvmm and its tests.
"""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

import pytest

from tests.lab.places import ROOT

PLACE = "/tmp/pyvmm-checkout"
"""Where the copy is, in the lab."""
UNPACK = f"mkdir -p {PLACE} && cd {PLACE} && tar xf -"
"""A shell's command that makes it of what it is given."""
_PACKED = (
    "pyvmm",
    "tests",
    "benchmarks",
    "guest",
    "firmware",
    "docs",
    "examples",
    "pyproject.toml",
)
_STRICT = {"strict", "build_strict"}
"""Folders of what `make lint` compiles, for its warnings."""
_COMPILED = sys.implementation.cache_tag
_LOADED = (_COMPILED, f"{_COMPILED}-pytest-{pytest.__version__}")
"""Ends of the names of compiled modules that this Python and this pytest load."""


def packed() -> bytes:
    """The checkout as a tar file, with what is built and compiled in it.

    Each megabyte is a fifth of a second of an emulated processor: without what nothing loads.
    """
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in _PACKED:
            tar.add(ROOT / name, name, filter=_loaded)
        for name in _constants():
            tar.add(ROOT / name, name)
    return out.getvalue()


def _loaded(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    path = PurePosixPath(entry.name)
    is_left_out = (
        path.name in _STRICT
        # Firmware is made in there, and found to be made already; guests are not.
        or (path.parts[0] == "guest" and path.suffix in {".o", ".a", ".d"})
        or (path.suffix == ".pyc" and not path.stem.endswith(_LOADED))
    )
    return None if is_left_out else entry


def _constants() -> Iterator[str]:
    """The files in which Hypothesis keeps what constants the modules of pyvmm have, as they are.

    It draws from them, and looks for them in each module's text where there is no such file: a
    third of what it takes to collect tests in there. Each is named after a hash of the text.
    """
    for source in sorted((ROOT / "pyvmm").rglob("*.py")):
        text = hashlib.sha1(source.read_bytes(), usedforsecurity=False).hexdigest()
        name = f".hypothesis/constants/{text[:16]}"
        if (ROOT / name).is_file():
            yield name


def unpacking(module: str, arguments: Sequence[str]) -> list[str]:
    """The command that unpacks what it is given, and runs a module of it with `arguments`."""
    return _started(UNPACK, module, arguments)


def module_of(place: str, module: str, arguments: Sequence[str]) -> list[str]:
    """The command that runs a module of the copy in `place` with `arguments`."""
    return _started(f"cd {place}", module, arguments)


def _started(preparation: str, module: str, arguments: Sequence[str]) -> list[str]:
    # Processes that the module starts are to load the copy, too.
    script = f'{preparation} && export PYTHONPATH="$PWD" && exec "$@" </dev/null'
    return ["sh", "-c", script, "sh", sys.executable, "-m", module, *arguments]
