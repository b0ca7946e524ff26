# SPDX-License-Identifier: MIT
"""String input and output: as many exits, of as many elements, as on KVM."""

from __future__ import annotations

import pytest

from pyvmm.hosts import exits
from pyvmm.hosts.model.string_input import elements
from pyvmm.hosts.model.system import ModelSystem
from tests.hosts.model.both_hosts import DATA, on_kvm_and_model, ran
from tests.hosts.model.small_guest import assemble

READ_MUCH = "mov $0x10000, %edi; mov $3000, %ecx; mov $0x60, %edx; rep insb; hlt"
STRINGS = {
    "more than is read ahead": READ_MUCH,
    "across the end of a page": (
        "mov $0x10ff0, %edi; mov $300, %ecx; mov $0x60, %edx; rep insl; hlt"
    ),
    "backward": "std; mov $0x10010, %edi; mov $100, %ecx; mov $0x60, %edx; rep insw; hlt",
    "backward from the beginning of a page": (
        "std; mov $0x11000, %edi; mov $5, %ecx; mov $0x60, %edx; rep insl; hlt"
    ),
    "nothing": "mov $0x10ff0, %edi; xor %ecx, %ecx; mov $0x60, %edx; rep insl; hlt",
    "repne is rep": "mov $0x10000, %edi; mov $5, %ecx; mov $0x60, %edx; repne insw; hlt",
    "16-bit addresses": (
        "mov $0x70007000, %edi; mov $0x10005, %ecx; mov $0x60, %edx; addr16 rep insb; hlt"
    ),
    "no rep": "mov $0x10ff0, %edi; mov $7, %ecx; mov $0x60, %edx; insl; insw; std; insb; hlt",
    "one after another": (
        "mov $0x10000, %edi; mov $0x60, %edx; mov $9, %ecx; rep insb;"
        "in $0x61, %al; mov $9, %ecx; rep insb; hlt"
    ),
    "output": "mov $0x10000, %esi; mov $300, %ecx; mov $0x60, %edx; rep outsl; hlt",
    "output backward": "std; mov $0x10010, %esi; mov $9, %ecx; mov $0x60, %edx; rep outsw; hlt",
    "output without rep": "mov $0x10010, %esi; mov $9, %ecx; mov $0x60, %edx; outsb; outsl; hlt",
}


@pytest.mark.kvm
@pytest.mark.parametrize("complete", [False, True], ids=["run on", "completed"])
@pytest.mark.parametrize("name", STRINGS)
def test_kvm_and_the_model_agree_on_strings(name: str, complete: bool) -> None:
    data = bytes(range(1, 251)) * 80
    kvm, model = on_kvm_and_model(STRINGS[name], data=data, complete=complete)
    assert model.exits == kvm.exits
    assert model.data == kvm.data
    for register in ("rip", "rcx", "rdi", "rsi", "rax", "rdx"):
        assert getattr(model.regs, register) == getattr(kvm.regs, register), register
    assert isinstance(kvm.exits[-1], exits.Hlt)


def test_many_elements_are_one_exit() -> None:
    with ModelSystem() as model:
        done = ran(model, READ_MUCH)
    assert done.exits == (
        exits.IoIn(0x60, 1, 1024),
        exits.IoIn(0x60, 1, 1024),
        exits.IoIn(0x60, 1, 952),
        exits.Hlt(),
    )
    assert done.data[:3001] == bytes(at % 251 + 1 for at in range(3000)) + b"\0"
    assert (done.regs.rcx, done.regs.rdi) == (0, DATA + 3000)


@pytest.mark.parametrize(
    ("rcx", "rdi", "bits", "backward", "expected"),
    [
        (5000, 0, 64, False, 256),
        (5000, 0xFF0, 64, False, 16),
        (5000, 0xFFF, 64, False, 1),
        (5000, 0x10, 64, True, 16),
        (5000, 0, 64, True, 1),
        (0x1_0000_0003, 0, 64, False, 3),
        (0x1_0000_0000, 0, 64, False, 1),
        (0x1_0003, 0, 16, False, 3),
    ],
)
def test_how_much_is_read_ahead(
    rcx: int, rdi: int, bits: int, backward: bool, expected: int
) -> None:
    assert elements(4, rcx, rdi, bits=bits, backward=backward) == expected


@pytest.mark.parametrize("hosts", [pytest.param("kvm", marks=pytest.mark.kvm), "model"])
def test_code_that_is_read_from_a_port_replaces_what_was_there(hosts: str) -> None:
    """The old code has been executed before, so it has been translated."""
    # The first element, which Unicorn stores by itself, is not part of that block.
    old, new = assemble("nop; " * 64 + "inc %ebx; ret"), assemble("nop; " * 64 + "dec %ebx; ret")
    source = """
        mov $0x10, %ebx; mov $0x10040, %eax; call *%eax; call *%eax
        mov $0x10000, %edi; mov $66, %ecx; mov $0x60, %edx; rep insb
        mov $0x10040, %eax; call *%eax; call *%eax; call *%eax; hlt"""
    assert len(old) == len(new) == 66
    if hosts == "kvm":
        for done in on_kvm_and_model(source, data=old, answer=lambda size: new[:size]):
            assert (done.exits[1:], done.regs.rbx) == ((exits.Hlt(),), 0xF)
    else:
        with ModelSystem() as model:
            done = ran(model, source, data=old, answer=lambda size: new[:size])
        assert done.regs.rbx == 0xF


def test_flags_survive_a_string() -> None:
    source = """
        mov $0x10000, %edi; mov $5, %ecx; mov $0x60, %edx
        xor %eax, %eax; cmp $1, %eax; rep insb; jc 1f; ud2; 1: hlt"""
    with ModelSystem() as model:
        for complete in (False, True):
            done = ran(model, source, complete=complete)
            assert done.exits == (exits.IoIn(0x60, 1, 5), exits.Hlt())
