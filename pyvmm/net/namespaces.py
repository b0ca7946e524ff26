# SPDX-License-Identifier: MIT
"""Network namespaces by name, and work within one on a thread of its own.

A name is a file of `NAMES`, as ``ip netns`` has it (ip-netns(8)): a namespace's file is mounted on
it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, TypeVar

from pyvmm.errors import (
    HostLacksError,
    NoInputError,
    NoPermissionError,
    SystemCallError,
    UsageError,
)

NAMES: Final = Path("/run/netns")
"""Folder of the namespaces that have a name."""
_NEWNET: Final = 1 << 30
"""CLONE_NEWNET."""
Result = TypeVar("Result")


def path_of(netns: str) -> Path:
    """Path of a namespace that is given by name, or (with a slash in it) by path."""
    return Path(netns) if "/" in netns else NAMES / netns


def open_namespace(netns: str) -> int:
    """Open a namespace, given as for `path_of`; the descriptor is the caller's.

    Raises `NoInputError` where there is none, `NoPermissionError`, `SystemCallError`.
    """
    attempt = f"enter the network namespace {netns}"
    try:
        return os.open(path_of(netns), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (FileNotFoundError, NotADirectoryError) as error:
        remedy = "" if "/" in netns else f"make it with ip netns add {netns}, or pyvmm net up"
        raise NoInputError(attempt, f"there is no {path_of(netns)}", remedy) from error
    except PermissionError as error:
        cause = f"{path_of(netns)} may not be opened"
        raise NoPermissionError(attempt, cause, "do it as root") from error
    except OSError as error:
        raise SystemCallError(attempt, error.errno or 0, error.strerror or "") from error


def own_namespace() -> int:
    """Open the calling thread's namespace; the descriptor is the caller's.

    Raises `HostLacksError` where /proc is not mounted, `SystemCallError`.
    """
    attempt = "open this network namespace"
    try:
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise HostLacksError(attempt, f"there is no {error.filename}", "mount /proc") from error
    except OSError as error:
        raise SystemCallError(attempt, error.errno or 0, error.strerror or "") from error


def new_namespace() -> int:
    """Make a namespace without a name; it goes with what is in it and its last descriptor.

    The descriptor is the caller's. Raises `NoPermissionError`, `SystemCallError`, and what
    `own_namespace` does.
    """

    def make() -> int:
        _call("unshare", "make a network namespace", ctypes.c_int(_NEWNET))
        return own_namespace()

    return within(None, make)


def within(netns: str | int | None, work: Callable[[], Result]) -> Result:
    """Do `work` on a thread of its own: in a namespace given as for `path_of`, or by a descriptor
    (which stays the caller's), or in this one.

    Returns and raises what `work` does; raises what `open_namespace` does, and `UsageError` for a
    file that is no network namespace's. The thread has ended then: no other one has moved.
    """
    with ExitStack() as stack:
        fd = netns if isinstance(netns, int) else None
        if isinstance(netns, str):
            fd = open_namespace(netns)
            stack.callback(os.close, fd)
        results: list[Result] = []
        failures: list[BaseException] = []

        def do() -> None:
            try:
                if fd is not None:
                    _enter(fd, f"enter the network namespace {netns}")
                results.append(work())
            except BaseException as failure:  # noqa: BLE001 - it is raised by who asked
                failures.append(failure)

        _run(do, failures)
        if failures:
            try:
                raise failures[0]
            finally:
                failures.clear()
        return results[0]


def _run(work: Callable[[], None], failures: list[BaseException]) -> None:
    """Run `work`, which raises nothing, on a thread of its own, and wait for its end.

    An interruption is a failure, and ends neither: what is half made would have no owner. It is not
    waited for by joining: a thread for which that was interrupted may count as one that has ended
    (CPython's issue 90882).
    """
    ended = threading.Event()
    turn = [work]

    def take_turn() -> None:
        with suppress(IndexError):
            turn.pop()()
        ended.set()

    thread = threading.Thread(target=take_turn, name="network links")
    try:
        thread.start()
    except KeyboardInterrupt as interruption:
        failures.append(interruption)
        with suppress(IndexError):
            turn.pop()
            return
    while not ended.is_set():
        try:
            ended.wait()
        except KeyboardInterrupt as interruption:
            failures.append(interruption)
    thread.join()


def _enter(fd: int, attempt: str) -> None:
    _call("setns", attempt, ctypes.c_int(fd), ctypes.c_int(_NEWNET))


def _call(function: str, attempt: str, *arguments: object) -> None:
    """Move the calling thread, setns(2) or unshare(2); Python has them from 3.12 on."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, function)(*arguments) == 0:
        return
    number = ctypes.get_errno()
    if number == errno.EINVAL:
        raise UsageError(attempt, "its file is no network namespace's", "give one of /run/netns")
    if number == errno.EPERM:
        raise NoPermissionError(attempt, "it needs CAP_SYS_ADMIN", "do it as root")
    raise SystemCallError(attempt, number, os.strerror(number))
