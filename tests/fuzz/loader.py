# SPDX-License-Identifier: MIT
"""The loader: an image, how it is wished to be entered, with what beside it, in how much memory."""

from __future__ import annotations

from pyvmm.boot import recognise
from pyvmm.boot.loader import plan_boot
from pyvmm.boot.plan import EntryWish
from pyvmm.errors import HostLacksError, ImageError, UsageError
from pyvmm.memory.address_map import AddressMap
from pyvmm.memory.layout import GIB, MIB
from tests.boot.seeds import SEEDS
from tests.boot.soundness import assert_sound

from .target import Target

_LAYOUTS = tuple(AddressMap.of(size) for size in (2 * MIB, 64 * MIB, 6 * GIB))
_WISHES = tuple(EntryWish)
_INITRDS = (None, b"i", bytes(5000))
_LARGEST = recognise.SizeLimit(4 * MIB, "it is larger than it is while fuzzing", "")
"""A bomb of 1 GiB says no more than one of 4 MiB, and takes seconds."""


def one(data: bytes) -> None:
    """The first byte chooses; the rest is the image."""
    if not data:
        return
    recognise._MUCH_TOO_LONG = _LARGEST
    choice, image = data[0], data[1:]
    layout = _LAYOUTS[choice % 3]
    wish = _WISHES[choice // 3 % len(_WISHES)]
    initrd = _INITRDS[choice // 15 % 3]
    try:
        plan = plan_boot(
            image, layout, b"quiet", initrd, wish=wish, rsdp=0xE0000, bios=lambda: bytes(4096)
        )
    except (ImageError, UsageError) as error:
        assert "\n" not in str(error)
    except HostLacksError:
        return
    else:
        assert_sound(plan, layout)


TARGET = Target(
    one,
    [bytes((choice,)) + image for image in SEEDS for choice in (1, 19, 28)],
    most=1 << 15,
)
