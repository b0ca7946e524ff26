# SPDX-License-Identifier: MIT
"""The lab's CPUs: programs leave the first alone, of which TCG loses flags (decision 8)."""

from __future__ import annotations

import sys

import pytest

from tests.lab.places import LabAtHand

pytestmark = pytest.mark.lab

RESTORE_X87 = """
import ctypes, mmap
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
# fnstenv [rdi]; again: fldenv [rdi]; jmp again
code.write(bytes.fromhex("d937d927ebfc"))
state = ctypes.create_string_buffer(28)
start = ctypes.addressof(ctypes.c_char.from_buffer(code))
ctypes.CFUNCTYPE(None, ctypes.c_void_p)(start)(ctypes.addressof(state))
"""
"""A program that makes QEMU change the boot CPU's flags all the time."""
BESIDE = """
python=$1; shift
"$python" -c "$0" & other=$!
"$@"; code=$?
kill -9 $other || exit 99
exit $code
"""


def test_programs_run_on_as_many_cpus_as_were_asked_for_and_not_on_the_first(
    lab: LabAtHand,
) -> None:
    done = lab.inside(["sh", "-c", "nproc; grep Cpus_allowed_list /proc/self/status"])
    assert done.out.split() == [b"2", b"Cpus_allowed_list:", b"1-2"]


def test_a_lab_of_one_cpu_has_no_other(no_lab: LabAtHand) -> None:
    done = no_lab.pyvmm("lab", "run", "--cpus", "1", "--", "cat", "/proc/cpuinfo")
    assert done.out.count(b"processor\t:") == 1


def test_no_string_instruction_is_said_to_be_quick(lab: LabAtHand) -> None:
    # Each byte is an iteration of a loop to TCG: nobody is to prefer them.
    done = lab.inside(["grep", "-cwE", "erms|fsrm", "/proc/cpuinfo"])
    assert done.out == b"0\n"


@pytest.mark.slow
def test_a_guest_lives_beside_a_program_that_restores_x87_state(
    lab: LabAtHand, checkout: str
) -> None:
    guest = (f"{sys.prefix}/bin/pyvmm", "run", "--private", "--cpus", "2", "smp")
    options = ("--append", "rounds=40")
    command = ["sh", "-c", BESIDE, RESTORE_X87, sys.executable, *guest, *options]
    done = lab.inside(command, env={"PYTHONPATH": checkout})
    assert done.code == 0, done.err
    assert b"every second common page is shared and zero" in done.out
