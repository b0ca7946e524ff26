"""The guest images that come with pyvmm, and where they are.

An installed package has them in ``pyvmm/images``; a checkout in ``guest/build``, where ``make``
puts them.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pyvmm.errors import HostLacksError

_PACKAGE = Path(__file__).resolve().parent
_PLACES = (_PACKAGE / "images", _PACKAGE.parent / "guest" / "build")
_SUFFIX = ".img"


@dataclass(frozen=True, slots=True)
class BundledGuest:
    """A bundled image: what ``pyvmm run NAME`` calls it, and its file."""

    name: str
    path: Path


def directory() -> Path:
    """Where the images are. Raises `HostLacksError` when they were never built."""
    for place in _PLACES:
        if any(place.glob(f"*{_SUFFIX}")):
            return place
    raise HostLacksError(
        "find the bundled guests", "they have not been built", "run make guests in the checkout"
    )


def find(name: str) -> BundledGuest | None:
    """The bundled guest called `name`, with or without ``.img``."""
    stem = name.removesuffix(_SUFFIX)
    if not stem or "/" in stem:
        return None
    for place in _PLACES:
        path = place / (stem + _SUFFIX)
        with suppress(OSError):  # A name that no file can have is nobody's.
            if path.is_file():
                return BundledGuest(stem, path)
    return None


def all_guests() -> list[BundledGuest]:
    """Every bundled guest, by name."""
    paths = sorted(directory().glob(f"*{_SUFFIX}"))
    return [BundledGuest(path.name.removesuffix(_SUFFIX), path) for path in paths]
