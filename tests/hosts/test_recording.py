# SPDX-License-Identifier: MIT
"""System calls and exits as those who watch are told: what the kernel got, compared with strace."""

from __future__ import annotations

import errno
import json
import re
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pyvmm.errors import SystemCallError
from pyvmm.hosts import exits, interface
from pyvmm.hosts.call_record import (
    Field,
    Made,
    SystemCall,
    flag_names,
    in_units,
    meaning_of,
    number_field,
)
from pyvmm.hosts.capabilities import GuestMemfdFlag, MemoryAttribute, VmType
from pyvmm.hosts.exits import Exit
from pyvmm.hosts.interface import Memslot, MemslotFlag
from pyvmm.hosts.kvm.errors import KvmError
from pyvmm.hosts.kvm.recorded_vcpu import RecordedVcpu
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.model.recorded import RecordedModelSystem
from pyvmm.hosts.registers import Regs

PAGE = 4096
SCRIPT = Path(__file__).parent / "recorded_life.py"


class Taken:
    """A recorder that keeps everything."""

    def __init__(self) -> None:
        self.calls: list[SystemCall] = []
        self.exits: list[tuple[int, Exit]] = []

    def call(self, made: SystemCall) -> None:
        self.calls.append(made)

    def exit(self, vcpu: int, exit_: Exit) -> None:
        self.exits.append((vcpu, exit_))

    def last(self, request: str) -> SystemCall:
        return next(one for one in reversed(self.calls) if request in {one.request, one.name})


def by_name(fields: tuple[Field, ...]) -> dict[str, Field]:
    return {one.name: one for one in fields}


@pytest.mark.parametrize(
    ("size", "said"),
    [(0, ""), (1023, ""), (1024, "1 KiB"), (2 << 20, "2 MiB"), ((2 << 20) + 4096, "2052 KiB"),
     (1 << 33, "8 GiB")],
)  # fmt: skip
def test_units(size: int, said: str) -> None:
    assert in_units(size) == said


def test_flags_and_what_has_no_name() -> None:
    assert flag_names(MemslotFlag(0)) == ""
    assert flag_names(MemslotFlag(6)) == "READONLY|GUEST_MEMFD"
    assert flag_names(MemslotFlag(2 | 1 << 9)) == "READONLY|0x200"
    assert meaning_of("struct kvm_memory_attributes", "attributes", 8) == "PRIVATE"
    assert meaning_of("struct kvm_memory_attributes", "attributes", 0) == "shared"
    assert meaning_of("struct kvm_irqfd", "gsi", 5) == ""


def test_a_negative_number_is_what_the_kernel_gets() -> None:
    assert number_field("guest_memfd", -1, 4).raw == b"\xff\xff\xff\xff"


@pytest.mark.kvm
def test_a_structure_is_spelled_out_as_the_kernel_got_it() -> None:
    taken = Taken()
    with (
        System(recorder=taken) as system,
        system.create_vm() as vm,
        system.map_anonymous(2 * PAGE) as ram,
    ):
        vm.set_memslot(Memslot(3, 0x10_0000, 2 * PAGE, ram.hva, MemslotFlag.READONLY))
        made = taken.last("KVM_SET_USER_MEMORY_REGION")
        assert made.target == f"VM fd {vm.fd}"
    assert (made.made, made.name, made.result, made.errno) == (Made.KERNEL, "ioctl", 0, 0)
    assert (made.section, made.structure) == ("api.rst 4.35", "struct kvm_userspace_memory_region")
    assert made.thread == threading.current_thread().name
    assert made.returned == ()
    assert made.given == (
        Field("slot", b"\3\0\0\0", 0, 3),
        Field("flags", b"\2\0\0\0", 4, 2, "READONLY"),
        Field("guest_phys_addr", (0x10_0000).to_bytes(8, "little"), 8, 0x10_0000),
        Field("memory_size", (2 * PAGE).to_bytes(8, "little"), 16, 2 * PAGE, "8 KiB"),
        Field("userspace_addr", made.given[4].raw, 24, int.from_bytes(made.given[4].raw, "little")),
    )


@pytest.mark.kvm
def test_a_capability_has_its_name() -> None:
    taken = Taken()
    with System(recorder=taken) as system, system.create_vm() as vm:
        vm.enable_hypercall_exits(1 << 12)
        cap = by_name(taken.last("KVM_ENABLE_CAP").given)["cap"]
    assert (cap.value, cap.meaning) == (201, "KVM_CAP_EXIT_HYPERCALL")


@pytest.mark.kvm
def test_a_refusal_is_told_with_its_errno() -> None:
    taken = Taken()
    with System(recorder=taken) as system:
        with pytest.raises(KvmError):
            system.create_vm(VmType.TDX)
        made = taken.last("KVM_CREATE_VM")
        assert (made.result, made.errno) == (-1, errno.EINVAL)
        assert made.given == (number_field("argument", 5, meaning="TDX"),)
        with system.create_vm() as vm, pytest.raises(KvmError):
            vm.create_guest_memfd(PAGE + 1)
        refused = taken.last("KVM_CREATE_GUEST_MEMFD")
    assert (refused.result, refused.errno) == (-1, errno.EINVAL)
    assert by_name(refused.given)["size"].value == PAGE + 1


@pytest.mark.kvm
def test_what_the_kernel_writes_is_told_apart_from_what_it_reads() -> None:
    taken = Taken()
    with System(recorder=taken) as system, system.create_vm() as vm, vm.create_vcpu(0) as vcpu:
        assert isinstance(vcpu, RecordedVcpu)
        vcpu.set_regs(replace(vcpu.get_regs(), rip=0x1234))
        got, put = taken.last("KVM_GET_REGS"), taken.last("KVM_SET_REGS")
        assert (got.given, put.returned) == ((), ())
        assert by_name(got.returned)["rip"].value == 0xFFF0
        assert by_name(put.given)["rip"].value == 0x1234
        # Room for a table: the first answer fills the count in, and the entries behind it.
        system.msr_indices()
        table = taken.last("KVM_GET_MSR_INDEX_LIST")
        count = by_name(table.returned)["nmsrs"].value
        assert count
        assert len(by_name(table.returned)["indices"].raw) == 4 * count
        assert by_name(table.given)["indices"].raw == bytes(4 * count)
        # KVM_SET_IRQCHIP has the number of one that writes, and reads.
    with System(recorder=taken) as system, system.create_vm() as vm:
        vm.create_irqchip()
        vm.restore(vm.save())
    put = taken.last("KVM_SET_IRQCHIP")
    assert put.returned == ()
    assert by_name(put.given)["chip_id"].value == 2


@pytest.mark.kvm
def test_exits_are_told_and_a_vcpu_of_nobody_s_is_an_ordinary_one(system: System) -> None:
    taken = Taken()
    with system.create_vm() as vm, vm.create_vcpu(0) as vcpu:
        assert not isinstance(vcpu, RecordedVcpu)
    with (
        System(recorder=taken) as watched,
        watched.create_vm() as vm,
        watched.map_anonymous(4 * PAGE) as ram,
    ):
        with ram.view() as view:
            view[PAGE : PAGE + 3] = b"\xe6\x80\xf4"  # out 0x80, al; hlt
        vm.set_memslot(Memslot(0, 0, 4 * PAGE, ram.hva))
        with vm.create_vcpu(1) as vcpu:
            sregs = vcpu.get_sregs()
            vcpu.set_sregs(replace(sregs, cs=replace(sregs.cs, base=0, selector=0)))
            vcpu.set_regs(Regs(rip=PAGE))
            told = [vcpu.run(), vcpu.run()]
    assert told == [exits.IoOut(0x80, 1, 1, b"\0"), exits.Hlt()]
    assert taken.exits == [(1, one) for one in told]


@pytest.mark.kvm
@pytest.mark.slow
def test_the_record_is_what_strace_sees(tmp_path: Path) -> None:
    log = tmp_path / "strace"
    which = "openat,ioctl,mmap,munmap,madvise,fallocate,memfd_create,ftruncate,mincore,close"
    ended = subprocess.run(
        ["strace", "-f", "-o", log, "-e", f"trace={which}", "-e", "signal=none", sys.executable,
         "-m", "tests.hosts.recorded_life"],
        stdout=subprocess.PIPE, check=True, cwd=SCRIPT.parent.parent.parent,
    )  # fmt: skip
    recorded: list[list[Any]] = json.loads(ended.stdout)
    seen = [line.split(maxsplit=1)[1] for line in log.read_text().splitlines()]
    start = max(i for i, line in enumerate(seen) if '"/dev/kvm"' in line)
    end = max(i for i, line in enumerate(seen) if line.startswith("close(")) + 1
    known = {tuple(one) for one in recorded}
    told = (told_by_strace(line) for line in seen[start:end])
    ours = [one for one in told if one is not None and (one in known or one[0] not in SHARED)]
    assert ours == [tuple(one) for one in recorded]
    assert len(ours) > 40


SHARED = frozenset({"mmap", "munmap", "madvise", "close"})
"""Calls that the interpreter makes for itself, too."""


def told_by_strace(line: str) -> tuple[str, str, int] | None:
    """(call, fd or address or path, result) of a call; None for one that is not about a guest."""
    found = re.match(r"(\w+)\(([^ ,)]+),? ?(.*)\) += (-?\w+)", line)
    if found is None or re.search(r"KVM_RUN|FIOCLEX|TCGETS", line):
        return None
    name, where, _, result = found.groups()
    if name == "openat":
        return ("open", "/dev/kvm", int(result, 0)) if '"/dev/kvm"' in line else None
    if name == "mmap":
        where = line.split(", ")[4]
    is_number = re.fullmatch(r"0x[0-9a-f]+|\d+", where)
    return name, str(int(where, 0)) if is_number else where, int(result, 0)


def lived(system: interface.System, taken: Taken) -> list[tuple[object, ...]]:
    """Have a VM live, and give what was told of it, without addresses and descriptors."""
    with system.create_vm() as vm:
        with system.map_anonymous(16 * PAGE) as ram, system.map_anonymous(PAGE, in_core=True):
            vm.set_memslot(Memslot(0, 0x10_0000, 16 * PAGE, ram.hva, MemslotFlag.LOG_DIRTY_PAGES))
            with pytest.raises(SystemCallError):
                vm.set_memslot(Memslot(1, 0x10_4000, 16 * PAGE, ram.hva))
            ram.discard(PAGE, 2 * PAGE)
        vm.set_memslot(Memslot(0, 0x10_0000, 0, 0))
        with pytest.raises(SystemCallError):
            vm.create_guest_memfd(PAGE + 1)
        shared = GuestMemfdFlag.MMAP | GuestMemfdFlag.INIT_SHARED
        with vm.create_guest_memfd(8 * PAGE, shared) as file:
            with file.map() as mapping:
                vm.set_memslot(
                    Memslot(2, 0x40_0000, 4 * PAGE, mapping.hva, guest_memfd=file,
                            guest_memfd_offset=PAGE)
                )  # fmt: skip
            file.allocate(0, PAGE)
            file.punch_hole(0, 2 * PAGE)
        with vm.create_guest_memfd(PAGE) as file, pytest.raises(SystemCallError):
            file.map()
        copy = vm.duplicate()
        with vm.create_guest_memfd(PAGE) as file, file.duplicate():
            pass
        with vm.create_vcpu(0) as vcpu:
            vcpu.set_regs(Regs(rax=1, r15=2, rip=0x1000))
            vcpu.duplicate().close()
    copy.close()
    copy.close()
    system.close()
    system.close()
    # The model has none.
    run_structures = {
        one.result for one in taken.calls if "vCPU fd" in one.target and one.name == "mmap"
    }
    return [
        (one.name, one.request, re.sub(r"\d+$", "", one.target), one.structure, one.section,
         one.errno, one.result < 0, [without_addresses(field) for field in one.given])
        for one in taken.calls if (one.name != "ioctl" or one.request in TOLD_BY_BOTH)
        and not ("vCPU fd" in one.target and one.name == "mmap")
        and not (one.name == "munmap" and one.given[0].value in run_structures)
    ]  # fmt: skip


TOLD_BY_BOTH = frozenset({
    "KVM_CREATE_VM", "KVM_SET_USER_MEMORY_REGION", "KVM_SET_USER_MEMORY_REGION2",
    "KVM_CREATE_GUEST_MEMFD", "KVM_CREATE_VCPU", "KVM_SET_REGS",
})  # fmt: skip


def without_addresses(field: Field) -> Field:
    if field.name in {"userspace_addr", "address", "guest_memfd"}:
        return replace(field, value=None, raw=bytes(len(field.raw)))
    return field


@pytest.mark.kvm
def test_the_model_tells_what_the_kernel_would_have_got() -> None:
    by_kernel, by_model = Taken(), Taken()
    with System(recorder=by_kernel) as system:
        if not system.capabilities().guest_memfd_flags & GuestMemfdFlag.INIT_SHARED:
            pytest.skip("this host's KVM has no guest_memfd that is shared")
        told = lived(system, by_kernel)
    modelled = lived(RecordedModelSystem(recorder=by_model), by_model)
    assert modelled == told
    assert {one.made for one in by_model.calls} == {Made.MODEL}
    assert len(modelled) > 40
    fds = [one.result for one in by_model.calls if one.request == "KVM_CREATE_VM"]
    assert fds == [4]


def test_the_model_tells_of_attributes_vcpus_and_exits() -> None:
    taken = Taken()
    with (
        RecordedModelSystem(recorder=taken) as system,
        system.create_vm(VmType.SW_PROTECTED) as vm,
        system.map_anonymous(4 * PAGE) as ram,
    ):
        vm.set_memory_attributes(0x4000, PAGE, MemoryAttribute.PRIVATE)
        made = taken.last("KVM_SET_MEMORY_ATTRIBUTES")
        assert by_name(made.given)["attributes"].meaning == "PRIVATE"
        with pytest.raises(SystemCallError):
            vm.set_memory_attributes(0x4001, PAGE, MemoryAttribute.PRIVATE)
        assert taken.last("KVM_SET_MEMORY_ATTRIBUTES").errno == errno.EINVAL
        with ram.view() as view:
            view[PAGE : PAGE + 3] = b"\xe6\x80\xf4"  # out 0x80, al; hlt
        vm.set_memslot(Memslot(0, 0, 4 * PAGE, ram.hva))
        with vm.create_vcpu(1) as vcpu:
            assert taken.last("KVM_CREATE_VCPU").given == (number_field("argument", 1),)
            sregs = vcpu.get_sregs()
            vcpu.set_sregs(replace(sregs, cs=replace(sregs.cs, base=0, selector=0)))
            vcpu.set_regs(Regs(rip=PAGE))
            assert vcpu.run() == exits.IoOut(0x80, 1, 1, b"\0")
        with pytest.raises(SystemCallError):
            vm.create_vcpu(1)
        assert taken.last("KVM_CREATE_VCPU").errno == errno.EEXIST
        with pytest.raises(SystemCallError):
            system.create_vm(VmType.TDX)
        assert taken.last("KVM_CREATE_VM").given == (number_field("argument", 5, meaning="TDX"),)
    assert taken.exits == [(1, exits.IoOut(0x80, 1, 1, b"\0"))]


@pytest.mark.kvm
def test_attributes_are_spelled_out_alike(system: System) -> None:
    from pyvmm.hosts.call_fields import attributes_fields
    from pyvmm.hosts.kvm.binding import new
    from pyvmm.hosts.kvm.recording import fields_of

    raw = new("struct kvm_memory_attributes *", {"address": 7, "size": 1 << 20, "attributes": 8})
    structure, fields = attributes_fields(7, 1 << 20, 8)
    assert fields_of(raw, structure) == fields


@pytest.mark.kvm
def test_registers_are_spelled_out_alike() -> None:
    from pyvmm.hosts.call_fields import regs_fields
    from pyvmm.hosts.kvm.binding import new
    from pyvmm.hosts.kvm.recording import fields_of
    from pyvmm.hosts.kvm.register_codec import encode_regs

    regs = Regs(*range(1, 19))
    raw = new("struct kvm_regs *")
    encode_regs(regs, raw)
    structure, fields = regs_fields(regs)
    assert fields_of(raw, structure) == fields
