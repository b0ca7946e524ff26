# SPDX-License-Identifier: MIT
"""Clients of real folders, for tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyvmm.devices.p9.session import Session
from pyvmm.machine.share.folder import open_folder
from pyvmm.machine.share.handles import HostFolder
from tests.devices.p9.client import Client


@contextmanager
def client_of(path: Path, *, read_only: bool = False, descriptors: int = 64) -> Iterator[Client]:
    """A client that has attached to `path`; when it is left, no descriptor of it is open."""
    before = open_descriptors()
    folder = open_folder(path, read_only=read_only, descriptors=descriptors)
    session = Session(HostFolder(folder))
    try:
        yield Client(session).begin()
    finally:
        session.reset()
        folder.close()
        assert open_descriptors() <= before


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def refusal(*numbers: int) -> Iterator[None]:
    """Expect an `OSError` with one of these numbers."""
    with pytest.raises(OSError) as refused:
        yield
    assert refused.value.errno in numbers
