# SPDX-License-Identifier: MIT
"""A guest that runs a guest of its own (AMD's SVM) is moved in the middle of that, and goes on."""

from __future__ import annotations

import pytest

from pyvmm.hosts.kvm.constants import Cap
from pyvmm.hosts.kvm.saved_values import NESTED_HEAD, KvmSavedVcpu
from pyvmm.hosts.kvm.system import System
from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.machine.machine import Machine
from pyvmm.memory.layout import MIB
from tests.hosts.model.small_guest import assemble

from .test_saved_machine import HANG, OFTEN, Stop, hear, lived, points, stop, within

__all__ = ("stop",)

SVM = 1 << 2
GUEST_MODE = 1
HYPERVISOR = """
    .code16
    cli
    lgdt pointer
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmpl $8, $protected
    .balign 8
gdt:
    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
pointer:
    .word pointer - gdt - 1
    .long gdt
    .code32
protected:
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $0x7000, %esp
    movl $0x83, 0xb000          /* the first 4 MiB, mapped as they are: VMRUN wants paging */
    mov $0xb000, %eax
    mov %eax, %cr3
    mov $0x10, %eax
    mov %eax, %cr4
    mov %cr0, %eax
    or $0x80000000, %eax
    mov %eax, %cr0
    mov $0xc0000080, %ecx       /* EFER.SVME */
    rdmsr
    or $0x1000, %eax
    wrmsr
    mov $0xc0010117, %ecx       /* VM_HSAVE_PA */
    mov $0x9000, %eax
    xor %edx, %edx
    wrmsr
    mov $0xa000, %edi           /* the VMCB */
    movl $3, 0x10(%edi)         /* VMRUN and VMMCALL are intercepted */
    movl $1, 0x58(%edi)         /* ASID */
    movl $0x0c930010, 0x400(%edi)
    movl $-1, 0x404(%edi)
    movl $0x0c9b0008, 0x410(%edi)
    movl $-1, 0x414(%edi)
    movl $0x0c930010, 0x420(%edi)
    movl $-1, 0x424(%edi)
    movl $0x0c930010, 0x430(%edi)
    movl $-1, 0x434(%edi)
    movl $0x1000, 0x4d0(%edi)
    mov %cr0, %eax
    mov %eax, 0x558(%edi)
    movl $0x10, 0x548(%edi)
    movl $0xb000, 0x550(%edi)
    movl $0x400, 0x560(%edi)
    movl $0xffff0ff0, 0x568(%edi)
    movl $2, 0x570(%edi)
    movl $inner, 0x578(%edi)
    movl $0x6000, 0x5d8(%edi)
    xor %esi, %esi
again:
    mov %edi, %eax
    vmrun
    cmpl $0x81, 0x70(%edi)      /* it was VMMCALL */
    jne bad
    addl $3, 0x578(%edi)
    mov $'.', %al
    out %al, $0xe9
    inc %esi
    cmp $5, %esi
    jne again
    mov $9, %al
    out %al, $0xf4
bad:
    mov $1, %al
    out %al, $0xf4
inner:
    mov $'a', %ebx
letter:
    mov %ebx, %eax
    out %al, $0xe9
    inc %ebx
    cmp $'k', %ebx
    jne letter
    vmmcall
    jmp inner
    .org 510
    .word 0xaa55
"""
SAID = b"abcdefghij." * 5


@pytest.fixture
def config() -> MachineConfig:
    """The machine, where there is a KVM that offers SVM."""
    with System() as system:
        offered = system.supported_cpuid()
        room = system.check_extension(Cap.NESTED_STATE)
    if not room or not any(one.function == 0x8000_0001 and one.ecx & SVM for one in offered):
        pytest.skip("this host's KVM lets no guest run guests by SVM")
    return with_guest(HYPERVISOR)


def with_guest(source: str) -> MachineConfig:
    image = assemble(source, 16, 0x7C00)
    return MachineConfig(image, memory=2 * MIB, host=HostChoice.KVM, timeout=HANG)


@pytest.mark.kvm
@pytest.mark.slow
def test_a_hypervisor_moves_with_its_guest(config: MachineConfig, stop: Stop) -> None:
    straight = lived(config, stop)
    assert (straight.said, straight.ending.status) == (SAID, 9)
    moved = lived(config, stop, points("hypervisor", straight.exits, min(OFTEN, 50)))
    assert (moved.said, moved.ending) == (straight.said, straight.ending)
    assert moved.moves >= min(OFTEN, 50) - 10


@pytest.mark.kvm
def test_a_reset_ends_a_hypervisor_s_guest(config: MachineConfig) -> None:
    async def act(machine: Machine) -> None:
        machine.control.resume()
        await hear(machine, b"abcdefghij")
        await machine.control.pause()
        saved = await machine.control.save()
        (vcpu,) = saved.vcpus
        assert isinstance(vcpu, KvmSavedVcpu)
        assert vcpu.nested is not None
        assert vcpu.nested[0] & GUEST_MODE
        assert len(vcpu.nested) > NESTED_HEAD
        await machine.control.reset()
        (again,) = (await machine.control.save()).vcpus
        assert isinstance(again, KvmSavedVcpu)
        assert again.nested is not None
        assert not again.nested[0] & GUEST_MODE
        await machine.control.restore(saved)
        (back,) = (await machine.control.save()).vcpus
        assert isinstance(back, KvmSavedVcpu)
        assert back.nested == vcpu.nested

    spins = with_guest(HYPERVISOR.replace("    vmmcall", "    jmp ."))
    assert spins.image != config.image
    within(spins, act)
