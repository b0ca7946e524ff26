# SPDX-License-Identifier: MIT
"""The page map of the shell: what was done to memory, by whatever call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from pyvmm.hosts.capabilities import GuestMemfdFlag, MemoryAttribute, VmType
from pyvmm.hosts.interface import Memslot
from pyvmm.hosts.model.recorded import RecordedModelSystem
from pyvmm.memory.page_states import PageState
from pyvmm.rules.abi import PAGE_SIZE
from pyvmm.rules.profile import IN_PLACE
from pyvmm.shell.bench import open_bench
from pyvmm.shell.desk import Desk
from pyvmm.shell.map_lines import lines_of_vm
from pyvmm.shell.watch import Watch, WatchedVm

BOTH = GuestMemfdFlag.MMAP | GuestMemfdFlag.INIT_SHARED


def told(vm: WatchedVm) -> list[tuple[int, int, str]]:
    """(first page, pages, state) of each run."""
    return [
        (run.range.start // PAGE_SIZE, run.range.size // PAGE_SIZE, run.state.value)
        for run in vm.runs()
    ]


def test_slots_and_attributes_of_several_vms() -> None:
    watch = Watch()
    with (
        RecordedModelSystem(recorder=watch) as system,
        system.create_vm(VmType.SW_PROTECTED) as vm,
        system.create_vm() as other,
        system.map_anonymous(8 * PAGE_SIZE) as ram,
    ):
        file = vm.create_guest_memfd(4 * PAGE_SIZE)
        vm.set_memslot(Memslot(1, 16 * PAGE_SIZE, 4 * PAGE_SIZE, ram.hva, guest_memfd=file))
        vm.set_memslot(Memslot(2, 0, 4 * PAGE_SIZE, ram.hva + 4 * PAGE_SIZE))
        other.set_memslot(Memslot(0, 0, PAGE_SIZE, ram.hva))
        vm.set_memory_attributes(2 * PAGE_SIZE, 15 * PAGE_SIZE, MemoryAttribute.PRIVATE)
        first, second = watch.vms.values()
        assert told(first) == [
            (0, 2, "shared"), (2, 2, "withheld"), (16, 1, "private"), (17, 3, "shared"),
        ]  # fmt: skip
        assert told(second) == [(0, 1, "shared")]
        vm.set_memslot(Memslot(2, 0, 0, 0))
        assert told(first) == [(16, 1, "private"), (17, 3, "shared")]
        other.close()
        assert list(watch.vms.values()) == [first]
        file.close()


def test_a_file_that_keeps_the_states_is_asked_for_them() -> None:
    watch = Watch()
    watch.in_place = True
    with (
        RecordedModelSystem(IN_PLACE, recorder=watch) as system,
        system.create_vm(VmType.SW_PROTECTED) as vm,
        vm.create_guest_memfd(8 * PAGE_SIZE, BOTH) as file,
        file.map() as mapping,
    ):
        slot = Memslot(0, 0, 4 * PAGE_SIZE, mapping.hva, guest_memfd=file)
        vm.set_memslot(slot._replace(guest_memfd_offset=4 * PAGE_SIZE))
        file.set_attributes(3 * PAGE_SIZE, 2 * PAGE_SIZE, MemoryAttribute.PRIVATE)
        (seen,) = watch.vms.values()
        assert told(seen) == [(0, 1, "private"), (1, 3, "shared")]
        assert [run.state for run in seen.runs()] == [PageState.PRIVATE, PageState.SHARED]


def test_a_refused_call_changes_no_map_and_is_kept() -> None:
    watch = Watch()
    with RecordedModelSystem(recorder=watch) as system, system.create_vm() as vm:
        watch.take()
        try:
            vm.set_memslot(Memslot(0, 1, PAGE_SIZE, 0))
        except Exception as error:  # noqa: BLE001
            assert "EINVAL" in str(error)
        (seen,) = watch.vms.values()
        assert told(seen) == []
        ((call,), exits) = watch.take()
        assert (call.request, call.errno, exits) == ("KVM_SET_USER_MEMORY_REGION", 22, ())


def test_a_vm_that_is_made_while_the_map_is_drawn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As by a thread of the user's: it is in the next map."""
    with open_bench("model", watched=True) as bench, ExitStack() as stack:

        def drawing(*given: Any) -> Iterator[str]:
            stack.enter_context(bench.system.create_vm())
            yield from lines_of_vm(*given)

        shown = Desk(bench)
        with monkeypatch.context() as patched:
            patched.setattr("pyvmm.shell.desk.lines_of_vm", drawing)
            shown.page_map()
        assert capsys.readouterr().out.count("VM fd") == 1
        shown.page_map()
        assert capsys.readouterr().out.count("VM fd") == 2
