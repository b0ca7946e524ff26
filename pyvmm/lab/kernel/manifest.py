# SPDX-License-Identifier: MIT
"""Facts about a kernel in the cache: the values, and their JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

FORMAT = 1
"""Of the JSON. Entries of another format are as good as absent."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A cache entry's description.

    `version` is the kernel's own release ("7.3.4"), `source` where that came from, `image` the
    file's name beside the manifest, `size` in bytes, `sha256` of the image, `built_at` in UTC
    (ISO 8601), `build_seconds` what compiling took by the clock and `objects` how many files that
    were: 0 for a kernel that was not built here, whose `config_hash` is "". `offers` is what the
    kernel proved to have, where somebody asked it. `change` says which change of ours is in it
    (`Change.identity`), "" where none is; `tree` is the folder of a user's own source, or "".
    """

    name: str
    version: str
    source: str
    config_hash: str
    compiler: str
    image: str
    sha256: str
    size: int
    built_at: str
    build_seconds: float
    objects: int
    offers: Mapping[str, int] | None = None
    change: str = ""
    tree: str = ""

    @property
    def was_built_here(self) -> bool:
        """True if ``pyvmm lab build`` compiled it, as opposed to taking a file over."""
        return bool(self.config_hash)

    @property
    def is_plain(self) -> bool:
        """True if those who name none may get it: no change is in it, and no source of a user's."""
        return not self.change and not self.tree

    def to_json(self) -> str:
        """The manifest's file."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest | None:
        """The inverse of `to_json`; None for anything that it did not write."""
        try:
            values = json.loads(text)
            if values.pop("format") != FORMAT:
                return None
            manifest = cls(**values)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        return manifest if manifest._is_sound() else None

    def _is_sound(self) -> bool:
        # All annotations but one are plain types, and a file name must stay in its folder.
        kinds: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float)}
        return (
            all(
                isinstance(getattr(self, field.name), kinds[str(field.type)])
                for field in fields(self)
                if str(field.type) in kinds
            )
            and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.image) is not None
            and (self.offers is None or isinstance(self.offers, dict))
        )


@dataclass(frozen=True, slots=True)
class Kernel:
    """A lab kernel: the file `path`, what it is called, and what is known about it."""

    name: str
    path: Path
    manifest: Manifest


def version_order(version: str) -> tuple[int, ...]:
    """A sort key: "6.9" < "6.12" < "6.12.3". Text that is no version comes first."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, found.group().split("."))) if found else ()


def series(version: str) -> str:
    """The name of a kernel of that version: "7.3.4" -> "7.3"; all of it where that does not fit."""
    found = re.match(r"\d+\.\d+", version)
    return found.group() if found else version
