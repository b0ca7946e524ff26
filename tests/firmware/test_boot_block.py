# SPDX-License-Identifier: MIT
"""The firmware's look at a boot block, compiled for this host with everything that finds faults.

That the firmware itself then refuses is shown in test_launch.py, for some of these.
"""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pyvmm.boot.launch import LaunchImage, boot_block
from pyvmm.boot.launch_format import BOOT_BLOCK, BOOT_REGION, BOOT_RUN
from pyvmm.memory.layout import LAUNCH_END, LAUNCH_TABLES, GpaRange

from .blocks import BROKEN, RIGHT, SOUND, Block
from .conftest import OnHost

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", SOUND)
def test_sound_blocks_are_taken(on_host: OnHost, name: str) -> None:
    assert on_host.complaint(SOUND[name].pack()) is None


@pytest.mark.parametrize("name", BROKEN)
def test_broken_blocks_are_refused_where_they_are_broken(on_host: OnHost, name: str) -> None:
    block, where = BROKEN[name]
    data = block.pack()
    # As the firmware does: as many bytes as the block says, within reason.
    size = block.size if block.size is not None else len(data)
    if size <= 0x10000:
        data = data.ljust(size, b"\0")[:size]
    assert on_host.complaint(data) == where


def test_a_block_of_ours_is_taken(on_host: OnHost, payload: LaunchImage) -> None:
    block = boot_block(payload, [GpaRange(0, 2 << 20)], 2, convert=True)
    size = int.from_bytes(block[8:12], "little")
    assert on_host.complaint(block[:size]) is None


def promises(data: bytes) -> bool:
    """What the loader builds on, said once more in other words."""
    (_, size, cpus, _, entry, start_info, region_count, run_count, *_) = BOOT_BLOCK.unpack_from(
        data
    )
    regions = [
        BOOT_REGION.unpack_from(data, BOOT_BLOCK.size + n * BOOT_REGION.size)
        for n in range(region_count)
    ]
    first = BOOT_BLOCK.size + region_count * BOOT_REGION.size
    runs = [BOOT_RUN.unpack_from(data, first + n * BOOT_RUN.size) for n in range(run_count)]
    pages = [page for gpa, _, length in runs for page in range(gpa >> 12, gpa + length >> 12)]
    ram = [range(gpa >> 12, gpa + length >> 12) for gpa, length in regions]
    launch = range(LAUNCH_TABLES >> 12, LAUNCH_END >> 12)
    return (
        size == len(data)
        and 1 <= cpus <= 255
        and pages == sorted(set(pages))
        and all(any(page in part for part in ram) for page in (*pages, *launch))
        and not set(pages) & set(launch)
        and {entry >> 12, start_info >> 12} <= set(pages)
        and all(
            source >= size and source + length <= 1 << 29 and source % 4096 == 0
            for _, source, length in runs
        )
    )


words = st.one_of(
    st.sampled_from([0, 1, 8, 4096, 0xE0000, 0xEB000, 0x10_0000, 0x20_0000, 0xC000_0000, 1 << 32]),
    st.sampled_from([(1 << 64) - 1, (1 << 64) - 4096, 1 << 63, 1 << 52, 1 << 29, 0x6000]),
    st.integers(0, 0x200).map(lambda page: page << 12),
    st.integers(0, (1 << 64) - 1),
)
changes = st.lists(st.tuples(st.integers(1, 26), words), max_size=3)


@settings(deadline=None, max_examples=500)
@given(changes)
@example([])
def test_whatever_is_taken_is_safe(on_host: OnHost, changed: list[tuple[int, int]]) -> None:
    data = bytearray(RIGHT.pack())
    for word, value in changed:
        data[8 * word : 8 * word + 8] = value.to_bytes(8, "little")
    block = bytes(data)
    if on_host.complaint(block) is None:
        assert promises(block)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=700))
def test_any_bytes_are_answered(on_host: OnHost, junk: bytes) -> None:
    assert on_host.complaint(junk) is not None
    assert on_host.complaint(Block().pack()[:8] + junk) is not None
