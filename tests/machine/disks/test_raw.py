# SPDX-License-Identifier: MIT
"""Requests of a disk on a file: zeroes and holes, views of any number, and short transfers."""

from __future__ import annotations

import errno
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


@pytest.mark.parametrize("at_once", [None, errno.EAGAIN, errno.EOPNOTSUPP])
def test_a_transfer_that_ends_early_goes_on_where_it_ended(
    path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int | None
) -> None:
    """Of three bytes at a time, across the ends of views; with `at_once` never without waiting."""

    def in_parts(call: Callable[..., int]) -> Callable[..., int]:
        def some(fd: int, views: Sequence[memoryview], offset: int, *flags: int) -> int:
            if at_once is not None and flags:
                raise OSError(at_once, os.strerror(at_once))
            taken, most = [], 3
            for view in views:
                taken.append(view[:most])
                most -= len(taken[-1])
            return call(fd, taken, offset)

        return some

    for name in ("preadv", "pwritev"):
        monkeypatch.setattr(os, name, in_parts(getattr(os, name)))
    parts = [b"a", b"bcdef", b"gh", b"ijklmno"]

    async def act(store: RawStore) -> None:
        await store.write(5, [memoryview(part) for part in parts])
        into = [memoryview(bytearray(size)) for size in (4, 4, 4, 5)]
        await store.read(4, into)
        assert b"".join(into) == b"xabcdefghijklmnox"

    on_disk(path, act)


@pytest.mark.parametrize("call", ["read", "write"])
def test_an_error_of_the_host_s_is_one_whoever_finds_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "preadv", fail)
    monkeypatch.setattr(os, "pwritev", fail)

    async def act(store: RawStore) -> None:
        with pytest.raises(OSError, match="full"):
            await getattr(store, call)(0, [memoryview(bytearray(512))])

    on_disk(path, act)


def test_a_flush_that_has_failed_once_fails_for_good(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells of it once, and would say that all is well from then on."""
    failures = [OSError(errno.EIO, "it is broken")]

    def fdatasync(_fd: int) -> None:
        if failures:
            raise failures.pop()

    monkeypatch.setattr(os, "fdatasync", fdatasync)

    async def act(store: RawStore) -> None:
        for _ in range(2):
            with pytest.raises(OSError) as refused:
                await store.flush()
            assert refused.value.errno == errno.EIO

    on_disk(path, act)
