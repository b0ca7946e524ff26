# SPDX-License-Identifier: MIT
"""bzImages that lie: whatever the header says, a plan that is sound or an error of ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.boot.loader import plan_boot
from pyvmm.boot.plan import BootProtocol, EntryWish
from pyvmm.errors import ImageError, UsageError
from pyvmm.memory.address_map import AddressMap
from pyvmm.memory.layout import GIB, MIB

from .linux_images import FIELDS, SETUP_SIZE, bzimage
from .soundness import assert_sound
from .test_hostile import interesting

LAYOUTS = tuple(AddressMap.of(size) for size in (2 * MIB, 20 * MIB, 3 * GIB, 9 * GIB))
PLACES = st.sampled_from(
    (0, 1, 0x1000, 0x7C00, 0x9FC00, MIB, MIB + 1, 16 * MIB, 0xBFFF_F000, 3 * GIB, 4 * GIB - 1,
     4 * GIB, 5 * GIB, 1 << 52, (1 << 64) - 4096)
)  # fmt: skip
WIDTHS = {"B": 8, "H": 16, "I": 32, "Q": 64}


def try_it(image: bytes, *layouts: AddressMap, **options: object) -> set[BootProtocol]:
    """The protocols by which layouts boot it; `AssertionError` for a plan that is not sound."""
    found = set()
    for layout in layouts or LAYOUTS:
        for wish in (EntryWish.AUTO, EntryWish.PROTECTED, EntryWish.REAL):
            try:
                plan = plan_boot(
                    image,
                    layout,
                    b"quiet",
                    wish=wish,
                    bios=lambda: bytes(4096),
                    **options,  # type: ignore[arg-type]
                )
            except (ImageError, UsageError) as error:
                assert "\n" not in str(error)
                continue
            assert_sound(plan, layout)
            found.add(plan.protocol)
    return found


@given(
    version=st.sampled_from((0x206, 0x207, 0x208, 0x209, 0x20A, 0x20C, 0x20F, 0xFFFF)),
    fields=st.dictionaries(
        st.sampled_from(sorted(set(FIELDS) - {"version", "boot_flag"})), interesting | PLACES
    ),
    initrd=st.sampled_from((None, b"x", bytes(4096), bytes(4097))),
)
def test_headers_that_are_made_up(
    version: int, fields: dict[str, int], initrd: bytes | None
) -> None:
    cut = {name: value & (1 << WIDTHS[FIELDS[name][1]]) - 1 for name, value in fields.items()}
    try_it(bzimage(bytes(2048), version=version, **cut), initrd=initrd)


@given(header=st.binary(min_size=0x9F, max_size=0x9F), data=st.data())
def test_headers_of_random_bytes(header: bytes, data: st.DataObject) -> None:
    image = bytearray(bzimage())
    image[0x1F1:0x290] = header
    image[0x1FE:0x200] = b"\x55\xaa"
    image[0x202:0x206] = b"HdrS"
    image[0x1F1] = data.draw(st.integers(0, 5))
    image[0x207] = 2
    image[0x1F4:0x1F8] = bytes(4)
    try_it(bytes(image))


@pytest.mark.slow
def test_every_bit_of_the_header() -> None:
    """Exhaustive, and it shows that the check sees all outcomes."""
    outcomes = set()
    for offset in range(0x1F1, 0x26C):
        for bit in range(8):
            image = bytearray(bzimage(init_size=0x10000, pref_address=MIB))
            image[offset] ^= 1 << bit
            outcomes.add(frozenset(try_it(bytes(image), LAYOUTS[1], initrd=b"x")))
    without_64 = {BootProtocol.LINUX_32, BootProtocol.LINUX_16}
    every = {BootProtocol.LINUX_64, *without_64}
    assert {frozenset(), frozenset(every), frozenset(without_64)} <= outcomes


def test_a_file_that_is_cut_anywhere_is_refused_as_a_cut_bzimage() -> None:
    image = bzimage(syssize=64)
    for size in (*range(0x206, SETUP_SIZE + 2), *range(SETUP_SIZE + 2, len(image) - 16, 7)):
        with pytest.raises(ImageError, match="looks like a bzImage"):
            plan_boot(image[:size], LAYOUTS[1])
