# SPDX-License-Identifier: MIT
"""The kernel changes in the room `changes`, by name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from pyvmm.errors import UsageError
from pyvmm.lab.kernel.source_editor import SourceEditor

_ROOM = "pyvmm.lab.kernel.changes"
_FOLDER = Path(__file__).parent / "changes"


@dataclass(frozen=True, slots=True)
class Change:
    """A change to the kernel's source.

    `name` is that of the kernel with it, `fits` the series that it is written for, `about` a line
    for those who choose, and `digest` of its text: another text makes another kernel.
    """

    name: str
    fits: str
    about: str
    digest: str
    make: Callable[[SourceEditor], None]

    @property
    def identity(self) -> str:
        """Text for a manifest: which change, and of which text."""
        return f"{self.name} ({self.digest})"


def names() -> list[str]:
    """Names of all changes, sorted."""
    found = (path.stem for path in _FOLDER.glob("*.py") if not path.stem.startswith("_"))
    return sorted(stem.replace("_", "-") for stem in found)


def named(name: str) -> Change:
    """The change `name`. Raises `UsageError`."""
    if name not in names():
        raise UsageError(
            f"build a kernel with the change {name!r}",
            f"there is none of that name; there are: {', '.join(names()) or 'none'}",
        )
    module_name = f"{_ROOM}.{name.replace('-', '_')}"
    spec = find_spec(module_name)
    assert spec is not None
    assert spec.origin is not None
    module = import_module(module_name)
    return Change(name, module.FITS, module.ABOUT, digest(Path(spec.origin)), module.change)


def digest(path: Path) -> str:
    """A short digest of a change's file, and of those beside it that have longer names with a _."""
    text = hashlib.sha256(path.read_bytes())
    for part in sorted(path.parent.glob(f"_{path.stem}*.py")):
        text.update(part.read_bytes())
    return text.hexdigest()[:16]
