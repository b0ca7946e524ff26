# SPDX-License-Identifier: MIT
"""The files that every monitor is given of a guest."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from pyvmm.compare.guest_files import GuestRequest, guest_files, path_of
from tests.boot.images import pvh


@pytest.mark.parametrize("image", [pvh(), gzip.compress(pvh(), mtime=0)], ids=["plain", "gzip"])
def test_all_are_given_the_image_unpacked(image: bytes) -> None:
    request = GuestRequest("x", None, image, b"", b"initrd", b"typed", 16 << 20, 1, 1.0)
    with guest_files(request) as files:
        assert files.initrd is not None
        contents = [Path(path_of(fd)).read_bytes() for fd in (files.image, files.initrd)]
        assert contents == [pvh(), b"initrd"]
