# SPDX-License-Identifier: MIT
"""What every test can ask for: the hosts that are there, and a failure where one must be."""

from __future__ import annotations

import faulthandler
import gc
import os
import shutil
import signal
import sys
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

from tests.parity import requirements
from tests.selection import Selection, has_nothing_quick, starts_early

pytest_plugins = ["pytester"]

# A busy machine is no finding: tests never depend on wall time.
settings.register_profile("calm", deadline=None)
settings.load_profile("calm")
# `make quick` and `make check` choose these with --hypothesis-profile.
settings.register_profile("quick", deadline=None, max_examples=10)
settings.register_profile("check", deadline=None, max_examples=40)

REQUIRED = requirements.REQUIRED


def _missing(mark: str) -> str | None:
    if mark == "kvm":
        try:
            os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            return f"/dev/kvm: {error.strerror}"
    if mark == "qemu" and shutil.which("qemu-system-x86_64") is None:
        return "qemu-system-x86_64 is not installed"
    if mark == "browser" and shutil.which("chromium") is None:
        return "chromium is not installed"
    if mark == "net":
        return _missing_networks()
    if mark == "nft":
        return _missing_networks() or _missing_nftables()
    if mark == "vhost":
        if not os.access("/dev/vhost-net", os.R_OK | os.W_OK):
            return "no /dev/vhost-net that can be opened: the lab has one"
        return _missing_networks()
    if mark == "passt":
        return _missing_networks() or _missing_passt()
    if mark == "lab":
        return _missing("qemu") or _missing_lab_kernel()
    return None


LAB_WANTED = os.environ.get("PYVMM_TEST_LAB") != "no"
"""Whether the lab may be used at all (`make test LAB=no` says so)."""
NO_LAB = "no lab: "
"""Begins the reason of a test that is skipped for that."""


def _missing_lab_kernel() -> str | None:
    if not LAB_WANTED:
        return "LAB=no"
    from pyvmm.errors import PyvmmError
    from pyvmm.lab.settings import find_kernel

    try:
        find_kernel(None)
    except PyvmmError as error:
        return str(error)
    return None


@cache
def _missing_networks() -> str | None:
    """Make a tap in a network namespace, where it is in nobody's way."""
    from pyvmm.errors import PyvmmError
    from pyvmm.net.namespaces import new_namespace, within
    from pyvmm.net.taps import open_tap

    try:
        namespace = new_namespace()
        try:
            for fd in within(namespace, lambda: open_tap(None)).fds:
                os.close(fd)
        finally:
            os.close(namespace)
    except PyvmmError as error:
        return str(error)
    return None


@cache
def _missing_passt() -> str | None:
    """Start one: it shuts itself in by name spaces, which a chroot does not let it have."""
    from pyvmm.errors import PyvmmError
    from pyvmm.net.namespaces import within
    from pyvmm.net.passt import open_passt
    from tests.net.passt_outside import outside

    try:
        with outside() as namespace:
            within(namespace, open_passt).close()
    except PyvmmError as error:
        return error.cause
    return None


@cache
def _missing_nftables() -> str | None:
    """Ask for tables of a network namespace that has none."""
    from pyvmm.errors import PyvmmError
    from pyvmm.net.masquerading import masquerading_owners
    from pyvmm.net.namespaces import new_namespace, within

    namespace = new_namespace()
    try:
        within(namespace, masquerading_owners)
    except PyvmmError as error:
        return str(error)
    finally:
        os.close(namespace)
    return None


CEILING = 600.0
"""Seconds after which a test hangs: no test takes that long, on a busy machine neither.

Its process then tells where each of its threads is and ends, even where it is deep in C. The run
goes on with another process and fails.
"""
LAB_CEILING = 3000.0
"""The same for a test that has a whole suite run in a lab."""
_STDERR = pytest.StashKey[int]()
"""Of the process: while a test runs, descriptor 2 is what catches its output."""


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_STDERR] = os.dup(sys.__stderr__.fileno() if sys.__stderr__ else 2)


def pytest_unconfigure(config: pytest.Config) -> None:
    os.close(config.stash[_STDERR])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """End the process of a test that hangs."""
    ceiling = LAB_CEILING if item.get_closest_marker("lab") else CEILING
    faulthandler.dump_traceback_later(ceiling, exit=True, file=item.config.stash[_STDERR])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in ("kvm", "qemu", "lab", "browser", "net", "nft", "vhost", "passt"):
        if item.get_closest_marker(mark) is None:
            continue
        reason = _missing(mark)
        if reason is None:
            continue
        if mark in REQUIRED:
            pytest.fail(f"{mark} is required here, but {reason}")
        pytest.skip(NO_LAB + reason if mark == "lab" else reason)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--selection",
        choices=[each.value for each in Selection],
        default=Selection.ALL.value,
        help="which of the tests (tests/selection.py)",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Spare `make quick` the import of what it has no test of."""
    is_quick = config.getoption("--selection") == Selection.QUICK.value
    is_test = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
    return True if is_quick and is_test and has_nothing_quick(collection_path) else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep what the selection has; where tests are shared out, what takes longest begins."""
    selection = Selection(config.getoption("--selection"))
    left = [item for item in items if not selection.has(item)]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if selection.has(item)]
    if hasattr(config, "workerinput"):
        items.sort(key=starts_early)


def pytest_collection_finish() -> None:
    """Thousands of tests are there to stay: no collection need look at them again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter,
) -> Generator[None, None, None]:
    """Say in one line, the last but pytest's own, what a run without a lab has not tested."""
    yield
    reasons = [
        str(report.longrepr[2]).partition(NO_LAB)[2]
        for report in terminalreporter.stats.get("skipped", ())
        if isinstance(report.longrepr, tuple) and NO_LAB in str(report.longrepr[2])
    ]
    if reasons:
        terminalreporter.write_line(
            f"not tested, for want of a lab: private memory on KVM, {len(reasons)} tests "
            f"({reasons[0]})"
        )


@pytest.fixture(scope="session", autouse=True)
def _default_signals_for_children() -> Iterator[None]:
    """Children start with default signals, however the tests were started.

    `nohup make test` and a shell's `make test &` ignore some, and a program that is executed
    inherits what is ignored, but no handlers: one that does nothing ignores for this process only.
    Blocked signals are inherited, too.
    """
    ignored = [
        number
        for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}  # Python's own
        if signal.getsignal(number) is signal.SIG_IGN
    ]
    for number in ignored:
        signal.signal(number, lambda *_: None)
    blocked = signal.pthread_sigmask(signal.SIG_SETMASK, ())
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


KEPT_OPEN = 10
"""Descriptors that a module may leave open: a library opened for good, a cache, and what is the
session's from its first use on: the loop of boot tests and the holder of networks, 8 together.
"""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, None, None]:
    """A module that leaves descriptors open fails: what it leaks, others would stumble over."""
    yield
    if nextitem is not None and nextitem.path == item.path:
        return
    now = len(os.listdir("/proc/self/fd"))
    before = item.session.stash.get(_OPEN_BEFORE, now)
    item.session.stash[_OPEN_BEFORE] = now
    if now > before + KEPT_OPEN:
        pytest.fail(f"{item.path.name} left {now - before} descriptors open")


_OPEN_BEFORE = pytest.StashKey[int]()


def pytest_sessionstart(session: pytest.Session) -> None:
    session.stash[_OPEN_BEFORE] = len(os.listdir("/proc/self/fd"))
