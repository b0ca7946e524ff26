# SPDX-License-Identifier: MIT
"""No guest makes the model touch host memory outside of its spans, whatever it executes."""

from __future__ import annotations

import ctypes
import mmap
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyvmm.boot.tables import protected_mode
from pyvmm.hosts import exits
from pyvmm.hosts.model.address_space import Span
from pyvmm.hosts.model.vcpu import ModelVcpu
from pyvmm.hosts.registers import Regs
from tests.hosts.model.small_guest import Services, assemble

PAGE = 4096
GUARD = 64 * PAGE
RAM = 16 * PAGE
HOLE_PAGE = 4
READ_ONLY_PAGE = 6
EXITS = 12

interesting = st.sampled_from(
    [
        0,
        1,
        0xFFF,
        0x1000,
        0x4000,
        0x6000,
        RAM - 1,
        RAM,
        0xFEE0_0000,
        (1 << 32) - 1,
        1 << 52,
        1 << 63,
    ]
)
word = st.one_of(interesting, st.integers(0, (1 << 64) - 1))
INTERCEPTED = (
    "0fa2 0f30 0f32 f4 0f01d9 0f01d8 0f01da 0f22c0 0f22d8 cd80 0f011f 0f0117 ee 6e f3a4 f3ab"
    " cf 0f00d8 8ed8 0fae07"
)
intercepted = st.sampled_from([bytes.fromhex(item) for item in INTERCEPTED.split()])
code = st.lists(st.one_of(intercepted, st.binary(min_size=1, max_size=6)), max_size=20).map(
    b"".join
)


class Guarded(Services):
    """RAM with a hole and a read-only page in it, and other host memory on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.host = mmap.mmap(-1, GUARD + RAM + GUARD)
        first = ctypes.addressof(ctypes.c_char.from_buffer(self.host)) + GUARD
        pieces = (
            (0, HOLE_PAGE, True),
            (HOLE_PAGE + 1, READ_ONLY_PAGE, True),
            (READ_ONLY_PAGE, READ_ONLY_PAGE + 1, False),
            (READ_ONLY_PAGE + 1, RAM // PAGE, True),
        )
        self.memory.set_spans(
            *(
                Span(start * PAGE, (end - start) * PAGE, first + start * PAGE, writable)
                for start, end, writable in pieces
            )
        )

    def fill(self, program: bytes) -> None:
        self.host[:] = b"\xa5" * len(self.host)
        self.host[GUARD : GUARD + RAM] = bytes(RAM)
        for page in (HOLE_PAGE, READ_ONLY_PAGE):
            self.host[GUARD + page * PAGE : GUARD + (page + 1) * PAGE] = b"\xa5" * PAGE
        self.host[GUARD + PAGE : GUARD + PAGE + len(program)] = program

    def check(self) -> None:
        for start, size in (
            (0, GUARD),
            (GUARD + HOLE_PAGE * PAGE, PAGE),
            (GUARD + READ_ONLY_PAGE * PAGE, PAGE),
            (GUARD + RAM, GUARD),
        ):
            assert self.host[start : start + size] == b"\xa5" * size, hex(start)


@contextmanager
def kicked(vcpu: ModelVcpu) -> Iterator[None]:
    timer = threading.Timer(0.01, vcpu.kick)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def run_briefly(vcpu: ModelVcpu) -> None:
    for _ in range(EXITS):
        with kicked(vcpu):
            reason = vcpu.run()
        match reason:
            case exits.IoIn(size=size) | exits.MmioRead(size=size):
                vcpu.answer(b"\x5a" * size)
            case exits.IoOut() | exits.MmioWrite() | exits.Hlt():
                pass
            case _:
                return


def try_it(services: Guarded, vcpu: ModelVcpu, program: bytes, words: list[int]) -> None:
    services.fill(program)
    names = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp")
    values = dict(zip(names, (value & 0xFFFF_FFFF for value in words), strict=True))
    vcpu.complete()
    services.memory.generation += 1  # The host has written to the code: it is translated again.
    vcpu.set_entry(Regs(**values, rip=PAGE), protected_mode())
    run_briefly(vcpu)
    services.check()


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(program=code, words=st.lists(word, min_size=8, max_size=8))
def test_random_code(program: bytes, words: list[int]) -> None:
    services = Guarded()
    with ModelVcpu(0, services) as vcpu:
        try_it(services, vcpu, program, words)


@pytest.mark.slow
def test_much_random_code() -> None:
    source = random.Random(5)
    services = Guarded()
    for _ in range(20):
        with ModelVcpu(0, services) as vcpu:
            for _ in range(20):
                words = [source.choice([0, 0x4000, 0x6000, RAM, source.getrandbits(32)])] * 8
                try_it(services, vcpu, source.randbytes(200), words)


def test_page_tables_that_point_outside_reach_nothing() -> None:
    """Every entry points beyond the RAM, up to the highest address that an entry can hold."""
    services = Guarded()
    source = """
    mov $0x2003, %eax
    mov $0x8000, %ebx
    movl $0x9003, (%ebx); movl $0xa003, 0x1000(%ebx)
    movl $0xfffff083, 0x2000(%ebx); movl $0x000fffff, 0x2004(%ebx)
    movl $0x83, 0x2008(%ebx); movl $0x00100000, 0x200c(%ebx)
    mov $0x20, %eax; mov %eax, %cr4; mov %ebx, %cr3
    mov $0xc0000080, %ecx; mov $0x100, %eax; xor %edx, %edx; wrmsr
    mov $0x80000011, %eax; mov %eax, %cr0
    """
    with ModelVcpu(0, services) as vcpu:
        vcpu.use_host_cpuid()
        try_it(services, vcpu, assemble(source, 32, PAGE), [0] * 7 + [0x7000])
