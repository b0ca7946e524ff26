# SPDX-License-Identifier: MIT
"""Bindings for which the kernel has no memory leave nothing behind."""

from __future__ import annotations

import os
import threading

import pytest

from pyvmm.errors import HostLacksError
from pyvmm.hosts.kvm.system import System
from pyvmm.replay import debugfs
from pyvmm.replay.failing_allocations import FailingAllocations
from pyvmm.replay.failing_bindings import Ending, FailedBinding, counted, failed_bindings
from pyvmm.replay.host import kinds_of
from pyvmm.replay.memory_kind import MAPPABLE, PRIVATE, MemoryKind

pytestmark = pytest.mark.kvm


@pytest.mark.parametrize("kind", [MAPPABLE, PRIVATE], ids=lambda kind: kind.name)
def test_a_binding_without_memory(
    system: System, allocations: FailingAllocations, kind: MemoryKind
) -> None:
    if kind not in kinds_of(system):
        pytest.skip("this KVM has no such memory")
    found = list(failed_bindings(system, allocations, kind))
    endings = counted(found)
    print(*found, sep="\n")
    half = len(found) - max(each.nth for each in found)
    assert [each.nth for each in found[:half]] == list(range(1, half + 1))
    assert found[0].ending is Ending.REFUSED  # the slot itself
    # Without a look at the result of xa_store_range, one of them would be half bound.
    assert set(endings) <= {Ending.REFUSED, Ending.BOUND}


def test_only_the_thread_that_asks_for_it_is_short_of_memory(
    allocations: FailingAllocations,
) -> None:
    ended: list[int | None] = []

    def make_a_file() -> None:
        try:
            os.close(os.memfd_create("file"))
        except OSError as error:
            ended.append(error.errno)
        else:
            ended.append(None)

    other = threading.Thread(target=make_a_file)
    with allocations.after(0) as countdown:
        make_a_file()
    other.start()
    other.join()
    assert countdown.reached
    assert ended == [12, None]


def test_a_countdown_that_is_not_used_up(allocations: FailingAllocations) -> None:
    with allocations.after(1000) as countdown:
        os.close(os.memfd_create("file"))
    assert not countdown.reached
    with allocations.after(0) as countdown:
        pass
    assert not countdown.reached


def test_failslab_is_set_back(allocations: FailingAllocations) -> None:
    folder = debugfs.open_folder("failslab")

    def settings() -> dict[str, str]:
        found = {}
        for name in ("probability", "task-filter", "ignore-gfp-wait", "times", "verbose"):
            fd = os.open(name, os.O_RDONLY, dir_fd=folder)
            found[name] = os.read(fd, 64).decode().strip()
            os.close(fd)
        return found

    try:
        outside = settings()
        FailingAllocations().close()
        assert settings() == outside
        assert outside["probability"] == "100"  # while the fixture has it
    finally:
        os.close(folder)


def test_a_kernel_without_failslab_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debugfs, "MOUNTED", "/nowhere")
    monkeypatch.setattr(debugfs, "_mount_for_us", lambda: os.open("/nowhere", os.O_RDONLY))
    with pytest.raises(HostLacksError, match=r"failslab.*/nowhere"):
        FailingAllocations()


@pytest.mark.parametrize(
    ("answer", "access", "again", "ending"),
    [
        ("ENOMEM", "", "ok", Ending.REFUSED),
        ("ENOMEM", "", "EEXIST", Ending.LEFT_BOUND),
        ("ok", "EIO", "ok", Ending.HALF_BOUND),
        ("ok", "0", "EINVAL", Ending.BOUND),
        ("ok", "EFAULT", "ok", Ending.OTHER),
        ("EINVAL", "", "ok", Ending.OTHER),
    ],
)
def test_endings(answer: str, access: str, again: str, ending: Ending) -> None:
    assert FailedBinding(1, answer, access, again).ending is ending
