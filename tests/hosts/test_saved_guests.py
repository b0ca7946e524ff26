# SPDX-License-Identifier: MIT
"""A guest that is saved and restored in another VM says the same as one that is never stopped."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

import pytest

from pyvmm.hosts import exits, interface
from pyvmm.hosts.interface import GuestMapping, Memslot, Vcpu
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.kvm.vcpu import Vcpu as KvmVcpu
from pyvmm.hosts.model.system import ModelSystem
from pyvmm.hosts.registers import Cr0, Cr4, Efer, Regs, Segment
from pyvmm.hosts.saved_state import SavedVcpu, SavedVm
from tests.hosts.model.small_guest import assemble

SIZE = 1 << 20
CODE = 0x1000
TABLES = 0x4000
PORT = 0xF1
_OSXSAVE = Cr4(1 << 18)
OFTEN = int(os.environ.get("PYVMM_MOVES", "100"))
"""Moves of each guest; fewer in the lab."""

SSE = """
    mov $3, %eax
    movq %rax, %xmm1
    fldz
    fld1
    xor %esi, %esi
    {setup}
again:
    paddq %xmm1, %xmm0
    pshufd $0x4e, %xmm0, %xmm5
    paddq %xmm5, %xmm15
    fadd %st, %st(1)
    fld %st(1)
    fistpll 0x8000
    {step}
    movq %xmm15, %rax
    add 0x8000, %rax
    add %rax, 0x9000(,%rsi,8)
    inc %esi
    and $0xff, %esi
    imul $0x9d, %rax, %rax
    shr $3, %rax
    out %al, $0xf1
    jmp again
"""
"""Sums in SSE and x87 registers and in memory, a byte of which is said at each turn; ring 3."""
AVX_SETUP = "vxorpd %ymm7, %ymm7, %ymm7; vinsertf128 $1, %xmm1, %ymm7, %ymm6"
AVX_STEP = """
    vaddpd %ymm6, %ymm7, %ymm7
    vorpd %ymm6, %ymm7, %ymm7
    vextractf128 $1, %ymm7, %xmm4
    vpaddq %xmm4, %xmm15, %xmm15
"""
"""The same in the upper halves of AVX registers."""

REGISTERS = """
again:
    mov $0xc0000082, %ecx
    rdmsr
    add $7, %eax
    wrmsr
    mov %eax, %ebx
    mov $0xc0000102, %ecx
    rdmsr
    add %ebx, %eax
    wrmsr
    add %eax, %ebx
    mov %cr2, %rax
    lea 5(%rax, %rbx), %rax
    mov %rax, %cr2
    add %eax, %ebx
    mov %ebx, %eax
    out %al, $0xf1
    jmp again
"""
"""Sums in MSRs and CR2; ring 0."""

COUNT = """
again:
    inc %rbx
    test $0xfffff, %ebx
    jnz again
    mov %rbx, %rax
    shr $20, %rax
    out %al, $0xf1
    jmp again
"""
"""A loop that says a byte from time to time; ring 3."""


@dataclass(frozen=True)
class Saved:
    """All of a guest."""

    vcpu: SavedVcpu
    vm: SavedVm
    memory: bytes


class Guest:
    """A small guest in 64-bit mode, 2 MiB mapped one to one."""

    def __init__(self, system: interface.System, owned: ExitStack) -> None:
        self.vm = owned.enter_context(system.create_vm())
        self.ram: GuestMapping = owned.enter_context(system.map_anonymous(SIZE))
        self.vm.set_memslot(Memslot(0, 0, SIZE, self.ram.hva))
        self.vcpu: Vcpu = owned.enter_context(self.vm.create_vcpu(0))

    def load(self, source: str, *, user: bool) -> None:
        self.vcpu.use_host_cpuid()
        code = assemble(source, 64, CODE)
        with self.ram.view() as view:
            view[CODE : CODE + len(code)] = code
            for level, entry in enumerate((TABLES + 0x1007, TABLES + 0x2007, 0x87)):
                at = TABLES + level * 0x1000
                view[at : at + 8] = entry.to_bytes(8, "little")
        ring = 3 if user else 0
        cs = Segment(0, 0xFFFF_FFFF, 0x18 | ring, 11, 1, ring, 0, 1, 1, 1, 0, 0)
        data = replace(cs, selector=0x20 | ring, type=3, l=0, db=1)
        if isinstance(self.vcpu, KvmVcpu) and user:
            self.vcpu.set_xcrs({0: 7 if "ymm" in source else 1})
        sregs = replace(
            self.vcpu.get_sregs(),
            **dict.fromkeys(("ds", "es", "fs", "gs", "ss"), data),  # type: ignore[arg-type]
            cs=cs,
            cr0=Cr0.PG | Cr0.PE | Cr0.MP,
            cr3=TABLES,
            cr4=Cr4.PAE | Cr4.OSFXSR | (_OSXSAVE if "ymm" in source else 0),
            efer=Efer.LME | Efer.LMA,
        )
        self.vcpu.set_sregs(sregs)
        self.vcpu.set_regs(Regs(rip=CODE, rflags=0x3002))  # IOPL 3

    def save(self) -> Saved:
        assert not self.vcpu.complete()
        with self.ram.view() as view:
            return Saved(self.vcpu.save(), self.vm.save(), bytes(view))

    def restore(self, saved: Saved) -> None:
        with self.ram.view() as view:
            view[:] = saved.memory
        self.vcpu.restore(saved.vcpu)
        self.vm.restore(saved.vm)

    def say(self) -> int | None:
        """The next byte; None: interrupted before that."""
        reason = self.vcpu.run()
        if isinstance(reason, exits.Interrupted):
            return None
        assert isinstance(reason, exits.IoOut), reason
        assert reason.port == PORT
        return reason.data[0]


HOSTS = ["model", pytest.param("kvm", marks=pytest.mark.kvm)]


@pytest.fixture(params=HOSTS)
def system(request: pytest.FixtureRequest) -> Iterator[interface.System]:
    with System() if request.param == "kvm" else ModelSystem() as made:
        yield made


def said(
    system: interface.System, source: str, count: int, *, user: bool, stops: set[int]
) -> list[int]:
    """The first `count` bytes; after each number of them that `stops` has it moves to a new VM."""
    heard: list[int] = []
    saved: Saved | None = None
    while len(heard) < count:
        with ExitStack() as owned:
            guest = Guest(system, owned)
            if saved is None:
                guest.load(source, user=user)
            else:
                guest.restore(saved)
            while len(heard) < count:
                byte = guest.say()
                assert byte is not None
                heard.append(byte)
                if len(heard) in stops:
                    saved = guest.save()
                    break
    return heard


@pytest.mark.parametrize("points", [5, pytest.param(OFTEN, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["sse", "avx", "registers"])
def test_stopped_at_exits(system: interface.System, kind: str, points: int) -> None:
    if kind == "avx" and isinstance(system, ModelSystem):
        pytest.skip("the model's processor has no AVX")
    source = {
        "sse": SSE.format(setup="", step=""),
        "avx": SSE.format(setup=AVX_SETUP, step=AVX_STEP),
        "registers": REGISTERS,
    }[kind]
    user = kind != "registers"
    count = 3 * points
    stops = set(random.Random(points).sample(range(1, count), points))
    straight = said(system, source, count, user=user, stops=set())
    assert len(set(straight)) > count // 20
    assert said(system, source, count, user=user, stops=stops) == straight


@pytest.mark.parametrize("points", [3, pytest.param(OFTEN, marks=pytest.mark.slow)])
def test_stopped_between_exits(system: interface.System, points: int) -> None:
    heard: list[int] = []
    saved: Saved | None = None
    stopped = random.Random(points)
    for _ in range(points):
        with ExitStack() as owned:
            guest = Guest(system, owned)
            if saved is None:
                guest.load(COUNT, user=True)
            else:
                guest.restore(saved)
            kick = threading.Timer(stopped.random() / 500, guest.vcpu.kick)
            kick.start()
            try:
                while (byte := guest.say()) is not None:
                    heard.append(byte)
            finally:
                kick.cancel()
                kick.join()
            saved = guest.save()
    with ExitStack() as owned:
        guest = Guest(system, owned)
        assert saved is not None
        guest.restore(saved)
        for _ in range(2):
            byte = guest.say()
            assert byte is not None
            heard.append(byte)
    assert heard == [number & 0xFF for number in range(1, len(heard) + 1)]
