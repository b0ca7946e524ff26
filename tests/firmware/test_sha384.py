# SPDX-License-Identifier: MIT
"""The firmware's SHA-384, compiled from the same source for this host, against Python's."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .conftest import OnHost

pytestmark = pytest.mark.slow


def test_every_length_around_blocks_and_paddings(on_host: OnHost) -> None:
    data = random.Random(384).randbytes(600)
    for size in range(600):
        assert on_host.sha384(data[:size]) == hashlib.sha384(data[:size]).digest(), size


@pytest.mark.parametrize("size", [4095, 4096, 4152, 4153, 65536, 1_000_003])
def test_long_messages(on_host: OnHost, size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert on_host.sha384(data) == hashlib.sha384(data).digest()


@settings(deadline=None)
@given(st.binary(max_size=1000), st.integers(1, 300))
def test_in_parts_of_any_size(on_host: OnHost, data: bytes, step: int) -> None:
    assert on_host.sha384(data, step) == hashlib.sha384(data).digest()


def test_the_standards_own_example(on_host: OnHost) -> None:
    """FIPS 180-2, appendix D.1."""
    assert on_host.sha384(b"abc").hex() == (
        "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed"
        "8086072ba1e7cc2358baeca134c825a7"
    )
