# SPDX-License-Identifier: MIT
"""Whatever the bytes: a plan that is sound, or an error of ours. Nothing else is ever raised."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pyvmm.boot.loader import plan_boot
from pyvmm.errors import ImageError, UsageError
from pyvmm.memory.address_map import AddressMap
from pyvmm.memory.layout import GIB, MIB

from .images import (
    HLT,
    elf,
    multiboot_header,
    patch_header,
    patch_segment,
    pvh,
    pvh_note,
)
from .seeds import NOTES, SEEDS
from .soundness import assert_sound

ROUNDS = int(os.environ.get("PYVMM_BOOT_FUZZ", 3 * settings().max_examples))
LAYOUTS = tuple(AddressMap.of(size) for size in (2 * MIB, 64 * MIB, 6 * GIB))
HELLO = Path(__file__).parents[2] / "guest" / "build" / "hello.img"

relaxed = settings(max_examples=ROUNDS, deadline=None, suppress_health_check=[HealthCheck.too_slow])
interesting = st.sampled_from(
    (0, 1, 2, 4, 0x7F, 0x80, 0xFF, 0xFFFF, 0x9FC00, 0x7FFFFFFF, 0xC0000000, 0xFFFFFFFF,
     0x100000000, 1 << 52, (1 << 63) - 1, 1 << 63, (1 << 64) - 0x1000, (1 << 64) - 1)
)  # fmt: skip


def seeds() -> list[bytes]:
    return [*SEEDS, HELLO.read_bytes()] if HELLO.exists() else SEEDS


def check(image: bytes, initrd: bytes | None = None, command_line: bytes = b"") -> bool:
    """Whether the image boots on any layout; a wrong plan or a foreign exception fails the test."""
    planned = False
    for layout in LAYOUTS:
        try:
            plan = plan_boot(image, layout, command_line, initrd, bios=lambda: bytes(4096))
        except (ImageError, UsageError) as error:
            assert "\n" not in str(error)
            continue
        assert_sound(plan, layout)
        planned = True
    return planned


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """A seed with up to a few bits flipped, fields overwritten, chunks moved, doubled or lost."""
    image = bytearray(draw(st.sampled_from(seeds())))
    for _ in range(draw(st.integers(1, 4))):
        if not image:
            break
        # Headers are at the start: most damage goes there, some anywhere.
        reach = min(len(image), draw(st.sampled_from((64, 256, 1 << 20)))) - 1
        at = draw(st.integers(0, reach))
        match draw(st.sampled_from(("bit", "field", "splice", "double", "cut", "lose"))):
            case "bit":
                image[at] ^= 1 << draw(st.integers(0, 7))
            case "field":
                width = draw(st.sampled_from((1, 2, 4, 8)))
                at -= at % width
                value = draw(interesting) & (1 << 8 * width) - 1
                image[at : at + width] = value.to_bytes(width, "little")
            case "splice":
                source = draw(st.sampled_from(seeds()))
                start = draw(st.integers(0, min(len(source), 256)))
                size = draw(st.integers(1, 64))
                image[at : at + size] = source[start : start + size]
            case "double":
                size = draw(st.integers(1, 64))
                image[at:at] = image[at : at + size]
            case "cut":
                del image[at:]
            case "lose":
                del image[at : at + draw(st.integers(1, 64))]
    return bytes(image)


@relaxed
@given(image=mutants(), initrd=st.none() | st.binary(max_size=64))
def test_damaged_images(image: bytes, initrd: bytes | None) -> None:
    check(image, initrd)


@relaxed
@given(image=st.binary(max_size=512))
@example(b"\x7fELF")
@example(b"\x7fELF\2\1\1")
def test_random_bytes(image: bytes) -> None:
    check(image)
    check(b"\x7fELF\2\1\1" + image)
    check(b"\x7fELF\1\1\1" + image)
    check(multiboot_header(1 << 16) + image)


@relaxed
@given(
    bits=st.sampled_from((32, 64)),
    index=st.integers(0, 2),
    fields=st.dictionaries(
        st.sampled_from(
            ("p_type", "p_offset", "p_vaddr", "p_paddr", "p_filesz", "p_memsz", "p_align")
        ),
        interesting | st.integers(0, 400) | st.integers(0xFFF00, 0x200100),
        min_size=1,
    ),
)
def test_lying_program_headers(bits: int, index: int, fields: dict[str, int]) -> None:
    image = SEEDS[0] if bits == 64 else SEEDS[1]
    for field, value in fields.items():
        width = 32 if field == "p_type" else bits
        image = patch_segment(image, index, field, value & (1 << width) - 1, bits)
    check(image)


@relaxed
@given(raw=st.binary(max_size=200), align=st.sampled_from((4, 8)))
def test_random_notes(raw: bytes, align: int) -> None:
    check(elf(notes=raw, note_align=align))
    check(elf(notes=pvh_note() + raw, note_align=align))


@relaxed
@given(values=st.lists(interesting | st.integers(0xFFF00, 0x100200), min_size=5, max_size=5))
def test_lying_multiboot_addresses(values: list[int]) -> None:
    fields = tuple(value & 0xFFFFFFFF for value in values)
    check(bytes(16) + multiboot_header(1 << 16, fields) + HLT * 64)


@pytest.mark.slow
def test_every_bit_of_the_headers() -> None:
    """Exhaustive, and it shows that the check sees both outcomes."""
    image = SEEDS[0]
    outcomes = set()
    for bit in range((64 + 3 * 56 + len(NOTES)) * 8):
        damaged = bytearray(image)
        damaged[bit // 8] ^= 1 << bit % 8
        outcomes.add(check(bytes(damaged)))
    assert outcomes == {True, False}


def test_seeds_are_sound() -> None:
    assert [check(image) for image in SEEDS] == [True] * len(SEEDS)


@pytest.mark.skipif(not HELLO.exists(), reason="guest/build/hello.img is not built")
def test_the_real_guest_with_its_front_shredded() -> None:
    image = HELLO.read_bytes()
    assert check(image)
    generator = random.Random(20240229)
    refused = 0
    for _ in range(ROUNDS):
        damaged = bytearray(image)
        for _ in range(generator.randint(1, 8)):
            damaged[generator.randrange(0x400)] = generator.randrange(256)
        refused += not check(bytes(damaged))
    assert refused > 0


def test_a_small_file_cannot_ask_for_much_work() -> None:
    """Every size is checked before it is used: 2^63 bytes of notes cost nothing."""
    image = patch_segment(SEEDS[0], 0, "p_filesz", 1 << 63)
    plan_boot(image, LAYOUTS[0])
    image = patch_segment(patch_segment(SEEDS[0], 1, "p_filesz", 1 << 63), 1, "p_memsz", 1 << 63)
    with pytest.raises(ImageError, match="beyond the end of the file"):
        plan_boot(image, LAYOUTS[0])
    with pytest.raises(ImageError, match="beyond the end of the file"):
        plan_boot(patch_header(pvh(), "e_phnum", 128), LAYOUTS[0])
