# SPDX-License-Identifier: MIT
"""Guests of a few instructions, on each host."""

from __future__ import annotations

import errno
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm.errors import SystemCallError, UsageError
from pyvmm.experiment import Code, assemble, guest
from pyvmm.hosts.exits import Hlt, Interrupted, IoIn, IoOut, Shutdown

each_host = pytest.mark.parametrize("host", [pytest.param("kvm", marks=pytest.mark.kvm), "model"])


@each_host
@pytest.mark.parametrize("bits", [16, 32, 64])
def test_text_becomes_code_that_runs_and_its_exits_are_values(host: str, bits: int) -> None:
    code = "mov $42, %al; out %al, $0x80\nin $0x80, %al; hlt"
    with guest(code, host=host, bits=bits) as made:
        assert made.run() == IoOut(0x80, 1, 1, b"*")
        assert made.run() == IoIn(0x80, 1, 1)
        made.vcpu.answer(b"\7")
        assert list(made.exits()) == [Hlt()]
        assert made.regs.rax & 0xFF == 7


@each_host
def test_registers_memory_and_the_stack_are_there(host: str) -> None:
    with guest("mov %rbx, (%rdi); push %rbx; pop %rcx; hlt", host=host) as made:
        made.set(rbx=0x1122_3344, rdi=0x10_0000)
        made.write(0x10_0008, b"beside")
        assert list(made.exits()) == [Hlt()]
        assert made.read(0x10_0000, 14) == b"\x44\x33\x22\x11\0\0\0\0beside"
        assert made.regs.rcx == 0x1122_3344
        with pytest.raises(UsageError, match="set register eax"):
            made.set(eax=1)
        for value in (-1, 1 << 64):
            with pytest.raises(UsageError, match=r"set register rax.*has not 64 bits"):
                made.set(rax=value)


@each_host
def test_a_guest_that_never_exits_is_interrupted(host: str) -> None:
    with guest("jmp .", host=host) as made:
        with pytest.raises(ValueError, match="soon"):
            made.run(timeout="soon")  # type: ignore[arg-type]
        for none in (-1, float("nan")):
            with pytest.raises(
                UsageError, match=f"run a guest for {none} seconds: that is no time"
            ):
                made.run(timeout=none)
        assert made.run(timeout=0.01) == Interrupted()


def test_a_timeout_beyond_what_can_be_waited_for_is_a_long_one() -> None:
    with guest("hlt", host="model") as made:
        assert made.run(timeout=1e30) == Hlt()


def test_code_without_a_folder_for_temporary_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(SystemCallError, match="have TMPDIR name a folder") as refused:
        assemble("nop")
    assert refused.value.errno == errno.ENOENT


class _FiresAtTheExit:
    """A timer whose time is over a moment after the exit."""

    def __init__(self, _seconds: float, function: Callable[[], None]) -> None:
        self._function = function

    def start(self) -> None:
        pass

    def cancel(self) -> None:
        self._function()

    def join(self) -> None:
        pass


@each_host
def test_a_time_that_is_over_just_after_an_exit_interrupts_no_later_run(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "in $0x80, %al; out %al, $0x80; mov $2, %al; out %al, $0x80; hlt"
    with guest(code, host=host) as made:
        monkeypatch.setattr(threading, "Timer", _FiresAtTheExit)
        assert made.run(timeout=60) == IoIn(0x80, 1, 1)
        made.vcpu.answer(b"\1")
        assert list(made.exits(timeout=60)) == [
            IoOut(0x80, 1, 1, b"\1"),
            IoOut(0x80, 1, 1, b"\2"),
            Hlt(),
        ]


def test_machine_code_runs_too() -> None:
    with guest(Code(b"\xf4", at=0x2_0000, bits=16), host="model") as made:
        assert made.code.at == 0x2_0000
    with guest(b"\x0f\x0b", host="model") as made:  # UD2, and no IDT
        assert list(made.exits()) == [Shutdown()]


def test_code_lies_where_it_was_assembled_for() -> None:
    code = assemble("lea there(%rip), %rax; mov $there, %rbx; hlt; there:", at=0x1_2340)
    with guest(code, host="model") as made:
        list(made.exits())
        assert made.regs.rax == made.regs.rbx == 0x1_2340 + len(code.content)


@pytest.mark.parametrize(
    ("text", "bits", "said"),
    [
        ("nop\nmovx $1", 64, "assemble line 2: no such instruction"),
        ("nop\nmovx $1", 16, "assemble line 2: no such instruction"),
        ("jmp nowhere", 64, "assemble guest code: undefined reference to `nowhere'"),
        ("hlt", 8, "code of 8 bits"),
    ],
)
def test_text_that_is_no_code_is_refused_in_a_line(text: str, bits: int, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        assemble(text, bits=bits)
    assert "\n" not in str(caught.value)


@each_host
def test_flags_go_to_the_host_as_they_are(host: str) -> None:
    with pytest.raises(SystemCallError, match=r"0x80|does not exist"):
        guest("hlt", host=host, memslot_flags=0x80)
    with pytest.raises(SystemCallError, match=r"flags[ =]0x83"):
        guest("hlt", host=host, guest_memfd_flags=0x83)


def test_a_guest_that_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="memslot_flags 0x200000000: the kernel has 32 bits"):
        guest(b"\xf4", host="model", memslot_flags=1 << 33)
    with pytest.raises(UsageError, match="memslot_flags -0x1"):
        guest(b"\xf4", host="model", memslot_flags=-1)
    with pytest.raises(UsageError, match="guest_memfd_flags"):
        guest(b"\xf4", host="model", guest_memfd_flags=1 << 64)
    with pytest.raises(UsageError, match="vm_type"):
        guest(b"\xf4", host="model", vm_type=-1)
    with pytest.raises(UsageError, match="no such host"):
        guest(b"\xf4", host="qemu")
    with pytest.raises(UsageError, match="whole pages"):
        guest(b"\xf4", host="model", memory=5)
    with pytest.raises(UsageError, match="RAM has"):
        guest(Code(b"\xf4", at=1 << 30), host="model")
    with pytest.raises(UsageError, match="page tables are there"):
        guest(Code(b"\xf4", at=0), host="model")
