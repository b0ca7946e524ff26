# SPDX-License-Identifier: MIT
"""Requests of a disk on a file: zeroes and holes, views of any number, and short transfers."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
import trio

from pyvmm.machine.disks import raw
from pyvmm.machine.disks.opening import open_disk
from pyvmm.machine.disks.raw import RawStore
from pyvmm.machine.hardware import Disk

PAGE = 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "disk"
    made.write_bytes(b"x" * 16 * PAGE)
    return made


def on_disk(path: Path, act: Callable[[RawStore], Awaitable[None]]) -> None:
    async def main() -> None:
        with open_disk(Disk(path)) as store:
            await act(store)

    trio.run(main)


def blocks(path: Path) -> int:
    return path.stat().st_blocks


@pytest.mark.parametrize("unmap", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_zeroes_are_zeroes_whatever_the_file_system_knows(
    path: Path, monkeypatch: pytest.MonkeyPatch, unmap: bool, known: bool
) -> None:
    if not known:
        for name in ("punch_hole", "zero_range"):
            monkeypatch.setattr(raw, name, lambda *_: False)
    before = blocks(path)
    on_disk(path, lambda store: store.write_zeroes(PAGE, 8 * PAGE, unmap=unmap))
    assert path.read_bytes() == b"x" * PAGE + bytes(8 * PAGE) + b"x" * 7 * PAGE
    if unmap and known:
        assert blocks(path) < before
    else:
        assert blocks(path) == before


def test_what_is_discarded_is_given_back(path: Path) -> None:
    before = blocks(path)
    on_disk(path, lambda store: store.discard(0, 16 * PAGE))
    assert blocks(path) < before
    assert path.stat().st_size == 16 * PAGE


def test_a_file_system_that_knows_no_holes_discards_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw, "punch_hole", lambda *_: False)
    on_disk(path, lambda store: store.discard(0, PAGE))
    assert path.read_bytes() == b"x" * 16 * PAGE


def test_a_transfer_that_ends_early_goes_on_where_it_ended(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three bytes at a time, across the ends of views."""

    def first_bytes(views: Sequence[memoryview]) -> list[memoryview]:
        taken, most = [], 3
        for view in views:
            taken.append(view[:most])
            most -= len(taken[-1])
        return taken

    read, write = os.preadv, os.pwritev
    monkeypatch.setattr(
        os, "preadv", lambda fd, views, offset: read(fd, first_bytes(views), offset)
    )
    monkeypatch.setattr(
        os, "pwritev", lambda fd, views, offset: write(fd, first_bytes(views), offset)
    )
    parts = [b"a", b"bcdef", b"gh", b"ijklmno"]

    async def act(store: RawStore) -> None:
        await store.write(5, [memoryview(part) for part in parts])
        into = [memoryview(bytearray(size)) for size in (4, 4, 4, 5)]
        await store.read(4, into)
        assert b"".join(into) == b"xabcdefghijklmnox"

    on_disk(path, act)
