# SPDX-License-Identifier: MIT
"""Sizes as people write them, and as they are written for people."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.memory.sizes import size_of, size_text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"), (1, "1B"), (4096, "4K"), (1 << 20, "1M"), (3 << 30, "3G"), (1025, "1025B"),
        (1024 << 30, "1T"),
    ],
)  # fmt: skip
def test_sizes_as_people_write_them(size: int, text: str) -> None:
    assert size_text(size) == text


@given(st.builds(lambda number, shift: number << shift, st.integers(0, 9999), st.integers(0, 50)))
def test_a_size_that_was_written_is_read_as_it_was(size: int) -> None:
    assert size_of(size_text(size)) == size
