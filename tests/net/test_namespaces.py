# SPDX-License-Identifier: MIT
"""Namespaces by name and by descriptor, and threads that move into them."""

from __future__ import annotations

import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from pyvmm.errors import NoInputError, UsageError
from pyvmm.net.marks import Mark
from pyvmm.net.named_namespaces import name_namespace, unname_namespace
from pyvmm.net.namespaces import NAMES, path_of, within

pytestmark = pytest.mark.net


def inode() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


def test_only_the_thread_moves_and_a_name_stays(netns: int) -> None:
    here = inode()
    name = f"pyvmm-test-{os.getpid()}"
    assert within(netns, inode) == os.fstat(netns).st_ino != here
    name_namespace(netns, name, Mark("t", name))
    try:
        assert within(name, inode) == os.fstat(netns).st_ino
        assert within(str(NAMES / name), inode) == os.fstat(netns).st_ino
        with pytest.raises(UsageError, match="there is one of that name"):
            name_namespace(netns, name, Mark("t", name))
    finally:
        unname_namespace(path_of(name), "t", is_mounted=True)
    assert not os.path.lexists(path_of(name))
    unname_namespace(path_of(name), "t", is_mounted=False)
    assert inode() == here == within(None, inode)
    with pytest.raises(NoInputError, match=f"ip netns add {name}"):
        within(name, inode)


def test_a_file_that_is_no_namespaces(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(UsageError, match="no network namespace's"):
        within(str(path), inode)
    with pytest.raises(NoInputError, match=r"there is no /proc/none/x$"):
        within("/proc/none/x", inode)


def test_what_fails_within_fails_outside(netns: int) -> None:
    def fail() -> int:
        return socket.create_connection(("127.0.0.1", 1)).fileno()

    with pytest.raises(OSError, match="unreachable"):
        within(netns, fail)


def test_an_interruption_waits_for_the_end(netns: int) -> None:
    interrupted, returned = threading.Event(), threading.Event()
    main = threading.get_ident()

    def interrupt(*_: object) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    def work() -> None:
        signal.pthread_kill(main, signal.SIGUSR1)
        assert interrupted.wait(240)
        waited.append(not returned.wait(0.1))

    waited: list[bool] = []
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            within(netns, work)
        returned.set()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert waited == [True]
