# SPDX-License-Identifier: MIT
"""Every program, booted by QEMU: with its own emulation and, where it is there, with KVM."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guest.building import PRIVATE_PROGRAMS

pytestmark = pytest.mark.qemu

ACCELERATORS = ("tcg", pytest.param("kvm", marks=pytest.mark.kvm))
CPU = "qemu64"
"""The default, by name: with KVM, other models set a register that not every KVM knows."""
ADDRESSES = re.compile(r"([0-9a-f]{10})-([0-9a-f]{10})")


@dataclass(frozen=True)
class Qemu:
    """How to boot; `boot` boots."""

    images: Path
    accelerator: str = "tcg"

    def command(self, program: str, append: str | None, *options: str) -> list[str]:
        machine = "microvm" if "-M" not in options else None
        cpu = CPU if "-cpu" not in options else None
        return [
            "qemu-system-x86_64",
            *("-accel", self.accelerator, "-nodefaults", "-no-user-config", "-no-reboot"),
            *("-display", "none", "-serial", "stdio"),
            *("-device", "isa-debug-exit,iobase=0xf4,iosize=1"),
            *("-kernel", str(self.images / f"{program}.img")),
            *(("-append", append) if append is not None else ()),
            *(("-M", machine) if machine else ()),
            *(("-cpu", cpu) if cpu else ()),
            *options,
        ]

    def boot(
        self,
        program: str,
        append: str | None = "",
        *options: str,
        console: bytes = b"",
        timeout: float = 240,
    ) -> tuple[int | None, str]:
        """The guest's exit status (None: it wrote none) and its console."""
        done = subprocess.run(
            self.command(program, append, *options),
            input=console,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0 or done.returncode & 1, done.stderr.decode()
        # isa-debug-exit makes (status << 1) | 1 of a status; QEMU's own failures are 1 with a
        # message, which no status 0 comes with.
        errors = [line for line in done.stderr.decode().splitlines() if "warning:" not in line]
        assert not errors, errors
        status = done.returncode >> 1 if done.returncode else None
        return status, done.stdout.decode("latin-1")


@pytest.fixture(params=ACCELERATORS)
def qemu(images: Path, request: pytest.FixtureRequest) -> Qemu:
    return Qemu(images, request.param)


@pytest.fixture
def tcg(images: Path) -> Qemu:
    return Qemu(images)


def spans(lines: list[str], first_word: str) -> list[tuple[int, int]]:
    """The address ranges, ends exclusive, of the lines that begin so."""
    found = []
    for line in lines:
        match = ADDRESSES.search(line)
        if line.startswith(first_word) and match:
            found.append((int(match[1], 16), int(match[2], 16)))
    return found


def test_hello(qemu: Qemu) -> None:
    status, console = qemu.boot("hello", "some words  a=1", "-m", "64M")
    lines = console.splitlines()
    assert status == 0
    assert lines[0] == "Hello from a pyvmm guest"
    assert "memory 0000100000-0004000000 usable" in lines
    assert "memory 0000000000-000009fc00 usable" in lines
    assert lines[-2:] == ["usable memory: 65151 KiB", "command line: some words  a=1"]
    assert "\r" not in console
    assert console.endswith("\n")


@pytest.mark.parametrize("append", [None, ""])
def test_hello_without_a_command_line(tcg: Qemu, append: str | None) -> None:
    status, console = tcg.boot("hello", append)
    assert status == 0
    assert console.endswith("\ncommand line: \n")


def test_hello_with_2_mib(qemu: Qemu) -> None:
    status, console = qemu.boot("hello", "", "-m", "2M")
    assert status == 0
    assert "memory 0000100000-0000200000 usable\n" in console


CPUID = re.compile(r"cpuid ([0-9a-f]{8})\.[0-9a-f]((?: [0-9a-f]{8}){4})")


def test_inventory(qemu: Qemu) -> None:
    status, console = qemu.boot("inventory", "x", "-m", "64M", "-smp", "1")
    lines = console.splitlines()
    assert status == 0
    assert "memory 0000100000-0004000000 usable" in lines
    assert lines[-1] == "command line: x"
    answers = [match for line in lines if (match := CPUID.fullmatch(line))]
    leaves = [int(match[1], 16) for match in answers]
    assert leaves == sorted(leaves)
    # The first leaf of each range says which is its last one; those that are all zero are left out.
    for first in (0, 0x8000_0000):
        (top,) = [int(match[2].split()[0], 16) for match in answers if int(match[1], 16) == first]
        assert first < max(leaf for leaf in leaves if leaf >> 28 == first >> 28) <= top
    assert all(set(match[2]) != {" ", "0"} for match in answers)
    assert len(answers) + len(spans(lines, "memory")) + 1 == len(lines)


def test_hello_on_a_pc(tcg: Qemu) -> None:
    status, console = tcg.boot("hello", "", "-M", "pc")
    assert status == 0
    assert console.startswith("Hello from a pyvmm guest\n")


def test_hello_on_the_debug_console(tcg: Qemu, tmp_path: Path) -> None:
    log = tmp_path / "debug"
    assert tcg.boot("hello", "debugcon=1", "-debugcon", f"file:{log}")[0] == 0
    assert log.read_bytes() == b"Hello from the debug console\n"


def test_echo_gives_back_every_byte(qemu: Qemu) -> None:
    sent = bytes(byte for byte in range(256) if byte != 4) * 3
    status, console = qemu.boot("echo", console=sent + b"\x04never seen")
    assert status == 0
    assert console.encode("latin-1") == sent


@pytest.mark.kvm
def test_echo_ends_when_the_carrier_goes(images: Path) -> None:
    """Under our own monitor: QEMU's UART has no carrier to lose when its input is a pipe."""
    done = subprocess.run(
        [sys.executable, "-m", "pyvmm", "run", str(images / "echo.img"), "--timeout", "20"],
        input=b"to the end\n without ^D",
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"to the end\n without ^D")


@pytest.mark.parametrize(
    ("append", "status"), [("", 0), ("0", 0), ("7", 7), ("status 63 2", 63), ("x1 5y", 5)]
)
def test_exit(qemu: Qemu, append: str, status: int) -> None:
    assert qemu.boot("exit", append) == (status, "")


def test_without_a_device(qemu: Qemu) -> None:
    assert qemu.boot("block") == (2, "there is no virtio block device\n")
    assert qemu.boot("hostile") == (2, "there is no virtio block device\n")
    lacks = "there is no virtio block device with packed rings\n"
    assert qemu.boot("packed") == (2, lacks)
    assert qemu.boot("pci") == (2, "there is no virtio block device on PCI\n")
    assert qemu.boot("net") == (2, "there is no virtio network card\n")
    assert qemu.boot("ports") == (2, "there is no virtio console\n")
    assert qemu.boot("share") == (2, "there is no virtio folder\n")


def test_timer(qemu: Qemu) -> None:
    started = time.monotonic()
    status, console = qemu.boot("timer", "ticks=45")
    assert status == 0
    assert console.splitlines() == [
        "timer at 100 Hz, 45 ticks",
        *("tick 10", "tick 20", "tick 30", "tick 40", "tick 45"),
    ]
    assert time.monotonic() - started >= 0.44


def test_timer_on_a_pc(tcg: Qemu) -> None:
    """Whose firmware leaves other interrupts behind."""
    status, console = tcg.boot("timer", "", "-M", "pc")
    assert (status, console.splitlines()[-1]) == (0, "tick 20")


def test_ring3(qemu: Qemu) -> None:
    steps = 1_000_003
    state = 1
    for _ in range(steps):
        state = (state * 6364136223846793005 + 1442695040888963407) & 0xFFFF_FFFF_FFFF_FFFF
    assert qemu.boot("ring3", f"loops={steps}") == (
        0,
        f"in ring 3\nloops: {steps}, checksum: {state:016x}, expected: {state:016x}\n",
    )


def test_ring3_cannot_see_the_kernel(qemu: Qemu) -> None:
    status, console = qemu.boot("ring3", f"touch={0x100000}")
    assert status == 63
    assert "  read of cr2=0000000000100000 by ring 3: not permitted\n" in console


@pytest.mark.parametrize("memory", [2, 3, 64, 128])
def test_memtest(qemu: Qemu, memory: int) -> None:
    status, console = qemu.boot("memtest", "", "-m", f"{memory}M")
    *tested, result = console.splitlines()
    ranges = spans(tested, "testing")
    size = sum(end - start for start, end in ranges)
    assert status == 0
    assert result == f"{size} bytes tested, no errors"
    assert ranges[-1][1] == memory << 20
    # All but the image, page tables and boot data.
    assert (memory << 20) - (1 << 20) + 0x9F000 - size <= 320 << 10


@pytest.mark.parametrize("address", [0, 0x5123, (64 << 20) - 1])
def test_memtest_finds_a_broken_bit(tcg: Qemu, address: int) -> None:
    status, console = tcg.boot("memtest", f"flip={address}", "-m", "64M")
    assert status == 1
    assert console.splitlines()[-1] == (
        f"memory error at 0x{address & ~7:x} in pass: verify it, write its complement"
    )


def test_memtest_leaves_modules_alone(tcg: Qemu, tmp_path: Path) -> None:
    module = tmp_path / "module"
    module.write_bytes(bytes(70_000))
    options = ("-m", "64M", "-initrd", str(module))
    (placed,) = spans(tcg.boot("hello", "", *options)[1].splitlines(), "module")
    status, console = tcg.boot("memtest", "", *options)
    tested = spans(console.splitlines(), "testing")
    assert status == 0
    assert placed[1] - placed[0] == 70_000
    assert all(end <= placed[0] or placed[1] <= start for start, end in tested)
    # Up to the page.
    assert placed[0] & ~4095 in {end for _start, end in tested}


@pytest.mark.kvm
@pytest.mark.slow
def test_memtest_above_4_gib(images: Path) -> None:
    status, console = Qemu(images, "kvm").boot("memtest", "", "-m", "3328M")
    assert status == 0
    assert "\ntesting 0100000000-0110000000\n" in console


@pytest.mark.slow
def test_memtest_with_pages_of_1_gib(tcg: Qemu) -> None:
    status, console = tcg.boot("memtest", "", "-cpu", "max", "-m", "2050M")
    assert status == 0
    assert "-0080200000\n" in console


def test_fault_is_reported(qemu: Qemu) -> None:
    status, console = qemu.boot("fault")
    lines = console.splitlines()
    assert status == 63
    assert lines[:3] == [
        "writing to 0x123456789000, which is not mapped",
        "EXCEPTION 14: #PF page fault, error code 0x2",
        "  write to cr2=0000123456789000 by the kernel: not present",
    ]
    rip = re.match(r"  rip=([0-9a-f]{16}) cs=0008 ", lines[3])
    assert rip
    assert lines[-1] == (
        f"PANIC: unexpected exception 14 (#PF page fault) at rip {int(rip[1], 16):#x}"
    )
    assert "r15=" in lines[-2]


def test_triple_fault(qemu: Qemu) -> None:
    """-no-reboot: QEMU ends, and the guest has written no status."""
    assert qemu.boot("triple") == (None, "triple fault\n")


def test_hang(qemu: Qemu) -> None:
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        qemu.boot("hang", timeout=2)
    assert caught.value.stdout == b"hanging\n"


def test_panic_without_pvpanic(qemu: Qemu) -> None:
    assert qemu.boot("panic", "for a test") == (63, "PANIC: asked to (for a test)\n")


def test_panic_with_pvpanic(tcg: Qemu) -> None:
    """QEMU ends by itself: the exit port is not reached."""
    assert tcg.boot("panic", "", "-M", "pc", "-device", "pvpanic") == (
        None,
        "PANIC: asked to ()\n",
    )


def test_hypercall_is_an_invalid_opcode_where_nobody_takes_it(tcg: Qemu) -> None:
    status, console = tcg.boot("hypercall")
    assert status == 63
    assert console.startswith("EXCEPTION 6: #UD invalid opcode, error code 0x0\n")


def test_library(qemu: Qemu) -> None:
    assert qemu.boot("selftest", "  x a=5  b= 12 aa=3") == (
        0,
        "[text] [  abc] [x] [%]\n"
        "[0] [-42] [  -42] [-0042] [-9223372036854775808]\n"
        "[4294967295] [18446744073709551615] [abc] [00000abc] [ffffffffffffffff] [0x1000]\n"
        "[                        7] [00000000000000000007]\n"
        "a=5 b=1000 first=12\n",
    )


def test_assertion_panics(tcg: Qemu) -> None:
    status, console = tcg.boot("selftest", "fail=1")
    assert status == 63
    assert re.fullmatch(
        r"PANIC: programs/selftest\.c:\d+: assertion failed: guest_option\(\"fail\", 0\) == 0",
        console.splitlines()[-1],
    )


@pytest.mark.parametrize("program", PRIVATE_PROGRAMS)
def test_what_needs_private_memory_says_so(tcg: Qemu, program: str) -> None:
    assert tcg.boot(program, "host=0") == (2, "this guest needs private memory\n")
