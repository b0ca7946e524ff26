# SPDX-License-Identifier: MIT
"""Declared ioctls on objects of KVM: answers and errors as of those that are built in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import cast

import pytest

from pyvmm.errors import HostLacksError, UsageError
from pyvmm.experiment import Declarations, Descriptor, declare, guest
from pyvmm.hosts.call_record import SystemCall
from pyvmm.hosts.capabilities import GuestMemfdFlag, MemoryAttribute
from pyvmm.hosts.exits import Exit
from pyvmm.hosts.interface import Memslot, MemslotFlag
from pyvmm.hosts.kvm.errors import KvmError
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.kvm.vm import Vm
from pyvmm.hosts.model.system import ModelSystem
from pyvmm.hosts.registers import Regs
from pyvmm.rules.abi import PAGE_SIZE

pytestmark = pytest.mark.kvm


@pytest.fixture(scope="module")
def abi() -> Declarations:
    return declare("""
        struct kvm_regs {
            __u64 rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp;
            __u64 r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags;
        };
        struct kvm_new { __u64 offset; __u64 size; };
        #define KVM_CHECK_EXTENSION _IO(KVMIO, 0x03)
        #define KVM_GET_REGS _IOR(KVMIO, 0x81, struct kvm_regs)
        #define KVM_SET_REGS _IOW(KVMIO, 0x82, struct kvm_regs)
        #define KVM_NEW _IOWR(KVMIO, 0xfe, struct kvm_new)
        #define KVM_CAP_USER_MEMORY 3
        """)


@pytest.fixture
def vm() -> Iterator[Vm]:
    with System() as system, system.create_vm() as vm:
        yield vm


def test_a_number_is_given_and_answered(abi: Declarations, vm: Vm) -> None:
    assert abi.KVM_CHECK_EXTENSION(vm, abi.KVM_CAP_USER_MEMORY) == (1, None)


def test_structures_go_both_ways(abi: Declarations, vm: Vm) -> None:
    with vm.create_vcpu(0) as vcpu:
        abi.KVM_SET_REGS(vcpu, rax=0x1234, rflags=2)
        assert vcpu.get_regs() == Regs(rax=0x1234)
        argument = abi.new("struct kvm_regs")
        answer = abi.KVM_GET_REGS(vcpu, argument)
        assert answer.argument is argument
        assert (answer.result, argument.rax, argument.rflags) == (0, 0x1234, 2)


def test_what_the_kernel_does_not_know_is_named_for_every_object(abi: Declarations, vm: Vm) -> None:
    said = r"KVM_NEW\(size=0x1000\) on {} fd \d+: {}"
    unknown = "ENOTTY .*; this kernel knows no ioctl 0xc010aefe of a {}"
    invalid = "EINVAL .*; a {} answers so to an ioctl that it does not know"
    with ExitStack() as stack:
        system = stack.enter_context(System())
        objects = [(system, "KVM", invalid), (vm, "VM", unknown)]
        objects.append((stack.enter_context(vm.create_vcpu(0)), "vCPU", invalid))
        if system.capabilities().guest_memfd:
            file = stack.enter_context(vm.create_guest_memfd(PAGE_SIZE))
            objects.append((file, "guest_memfd", unknown))
        for on, what, why in objects:
            with pytest.raises(KvmError, match=said.format(what, why.format(what))):
                abi.KVM_NEW(on, size=4096)


def test_a_closed_object_and_one_of_the_model_are_named(abi: Declarations, vm: Vm) -> None:
    vm.close()
    with pytest.raises(KvmError, match="closed VM: EBADF"):
        abi.KVM_NEW(vm)
    with ModelSystem() as system, system.create_vm() as model:
        with pytest.raises(HostLacksError, match="issue KVM_NEW on ModelVm"):
            abi.KVM_NEW(model)


@pytest.mark.parametrize(
    ("name", "arguments", "fields"),
    [
        ("KVM_NEW", (1,), {}),
        ("KVM_CHECK_EXTENSION", ("1",), {}),
        ("KVM_CHECK_EXTENSION", (), {"size": 1}),
    ],
)
def test_an_argument_of_another_kind_is_refused(
    abi: Declarations, vm: Vm, name: str, arguments: tuple[object, ...], fields: dict[str, object]
) -> None:
    with pytest.raises(UsageError, match=f"issue {name}: it takes"):
        abi.ioctl(name)(vm, *arguments, **fields)  # type: ignore[arg-type]


def test_an_argument_that_is_too_short_is_refused(abi: Declarations, vm: Vm) -> None:
    with pytest.raises(UsageError, match="struct kvm_regs, not struct kvm_new"):
        abi.KVM_SET_REGS(vm, abi.new("struct kvm_new"))


def test_numbers_without_a_name_go_to_the_kernel_as_they_are(abi: Declarations, vm: Vm) -> None:
    number = abi.KVM_CAP_USER_MEMORY + 60_000
    with System() as system:
        assert system.check_extension(number) == 0
        with pytest.raises(KvmError, match=r"KVM_CREATE_VM\(777\).*EINVAL"):
            guest(b"\xf4", host=system, vm_type=777)
    with pytest.raises(KvmError, match=r"cap=60003.*EINVAL"):
        vm.enable_cap(number, 1)
    flags = cast(GuestMemfdFlag, 1 << 62)
    with pytest.raises(KvmError, match=r"flags=0x4000000000000000.*(EINVAL|ENOTTY)"):
        vm.create_guest_memfd(PAGE_SIZE, flags)
    with pytest.raises(KvmError, match=r"flags=0x40000000 .*EINVAL"):
        vm.set_memslot(Memslot(0, 0, PAGE_SIZE, 0, cast(MemslotFlag, 1 << 30)))
    with pytest.raises(KvmError, match=r"attributes=0x100000.*(EINVAL|ENOTTY)"):
        vm.set_memory_attributes(0, PAGE_SIZE, cast(MemoryAttribute, 1 << 20))


def test_a_descriptor_that_an_ioctl_has_given_takes_ioctls(abi: Declarations) -> None:
    create = declare("#define KVM_CREATE_VM _IO(KVMIO, 0x01)").KVM_CREATE_VM
    with System() as system:
        with Descriptor(create(system, 0).result) as made:
            assert abi.KVM_CHECK_EXTENSION(made, abi.KVM_CAP_USER_MEMORY).result == 1
        with pytest.raises(KvmError, match="closed device: EBADF"):
            abi.KVM_CHECK_EXTENSION(made, 1)


OPEN = """
    struct kvm_cpuid_entry2 { __u32 function, index, flags, eax, ebx, ecx, edx, padding[3]; };
    struct kvm_cpuid2 { __u32 nent; __u32 padding; struct kvm_cpuid_entry2 entries[]; };
    #define KVM_GET_SUPPORTED_CPUID _IOWR(KVMIO, 0x05, struct kvm_cpuid2)
"""


def test_the_kernel_writes_nothing_beyond_an_array_that_is_too_short() -> None:
    """The argument says 200 entries, of which it has none, or two."""
    abi = declare(OPEN)
    with System() as system:
        with pytest.raises(KvmError, match=r"EFAULT .*elements=N"):
            abi.KVM_GET_SUPPORTED_CPUID(system, nent=200)
        argument = abi.new("struct kvm_cpuid2", elements=2, nent=200)
        with pytest.raises(KvmError, match="EFAULT"):
            abi.KVM_GET_SUPPORTED_CPUID(system, argument)
        enough = abi.new("struct kvm_cpuid2", elements=200, nent=200)
        assert abi.KVM_GET_SUPPORTED_CPUID(system, enough).argument is enough
    known = {entry.function: entry for entry in list(enough.entries)[: enough.nent]}
    assert known[0].ebx


def test_who_watches_is_told_of_an_array_s_elements() -> None:
    abi = declare(OPEN)
    made: list[SystemCall] = []
    with System(recorder=_Kept(made)) as system:
        argument = abi.new("struct kvm_cpuid2", elements=200, nent=200)
        abi.KVM_GET_SUPPORTED_CPUID(system, argument)
    (told,) = [one for one in made if one.request == "KVM_GET_SUPPORTED_CPUID"]
    assert {one.name: one.raw for one in told.returned}["entries"] == bytes(argument)[8:]


class _Kept:
    def __init__(self, made: list[SystemCall]) -> None:
        self._made = made

    def call(self, made: SystemCall) -> None:
        self._made.append(made)

    def exit(self, vcpu: int, exit_: Exit) -> None:
        pass


def test_a_view_of_more_memory_than_its_type_has_that_many_elements() -> None:
    abi = declare(OPEN)
    memory = bytearray(8 + 200 * 40)
    argument = abi.view("struct kvm_cpuid2", memory)
    argument.nent = 200
    with System() as system:
        abi.KVM_GET_SUPPORTED_CPUID(system, argument)
    assert 0 < argument.nent <= 200
    assert any(memory[8 : 8 + 40 * argument.nent])


def test_a_number_without_a_size_writes_nothing_beyond_its_argument() -> None:
    """FIONREAD answers with an int."""
    abi = declare("#define FIONREAD 0x541B")
    reading, writing = os.pipe()
    with Descriptor(reading) as pipe, Descriptor(writing):
        os.write(writing, b"three")
        answer = abi.ioctl("FIONREAD", argument="int")(pipe)
        assert answer.argument is not None
        assert answer.argument[0] == 5
        with pytest.raises(KvmError, match=r"EFAULT .*more than the 2 bytes"):
            abi.ioctl("FIONREAD", argument="__u16")(pipe)
