# SPDX-License-Identifier: MIT
"""A lab with a kernel of ours that converts in place: its KVM does what pyvmm claims of it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.lab.checkout import PLACE, UNPACK, module_of, packed
from tests.lab.conftest import environment, need_kernel
from tests.lab.places import LabAtHand

pytestmark = [pytest.mark.lab, pytest.mark.slow]

KERNEL = "in-place-conversion"
FILES = {
    "tests/parity/test_in_place_conversions.py": 34,
    "tests/parity/test_guest_memfd.py": 40,
    "tests/machine/test_in_place_guests.py": 6,
    "tests/machine/test_in_place.py": 10,
    "tests/machine/test_in_place_seams.py": 4,
    "tests/machine/test_leases_of_machines.py": 3,
    "tests/machine/test_memory_use.py": 3,
    "tests/machine/test_private_devices.py": 7,
    "tests/hosts/test_huge_pages.py": 1,
    "tests/hosts/test_page_holders.py": 2,
    "tests/examples/test_examples.py": 9,
}
"""Files of tests, and how many of each have to pass at least: so that none is left out unnoticed.

A process of pytest is seconds in there: they share one.
"""
LEFT_OUT = {
    "conversion_by_hypercall": "no VMs with private memory and attributes",
}
"""Examples that cannot run there, and the reason that they are skipped for."""
OPTIONS = [
    *("-v", "--tb=short", "-rs", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "kvm"),
    *("-k", "not test_leases_of_machines or (kvm-in-place and not in-place-2)"),
]
PATIENCE = 900.0
SCRIPT = b"""\
from pyvmm.errors import SystemCallError
from pyvmm.hosts.page_held import PageHeldError

memory[0x4000:0x4006] = b"shared"
with memory.file.hold_page(0x4000):
    try:
        memory.convert(0x4000, 0x1000, private=True)
    except PageHeldError as refusal:
        print("held:", refusal.cause)
memory.convert(0x4000, 0x1000, private=True)
try:
    memory[0x4000:0x4006]
except SystemCallError as refusal:
    print("private:", refusal.cause)
page_map()
memory.convert(0x4000, 0x1000, private=False)
print("shared again:", memory[0x4000:0x4006])
KVM_SET_MEMORY_ATTRIBUTES(vm, address=0x4000, size=0x1000, attributes=8)
"""
"""Script of the shell, which ends with a refusal: this kernel's VMs have no attributes."""


@pytest.fixture(scope="module")
def in_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabAtHand]:
    """A lab with this kernel, in which there is a copy of the checkout."""
    need_kernel(KERNEL, "in-place-lab")
    at_hand = LabAtHand(environment(tmp_path_factory.mktemp("lab")))
    done = at_hand.pyvmm("lab", "up", "--kernel", KERNEL)
    assert done.code == 0, done.err
    try:
        done = at_hand.inside(["sh", "-c", UNPACK], given=packed())
        assert done.code == 0, done.err
        yield at_hand
    finally:
        at_hand.pyvmm("lab", "down")


def test_conversions_and_machines_on_a_kernel_that_converts_in_place(in_place: LabAtHand) -> None:
    env = {"PYVMM_REQUIRE": "kvm,in-place,vhost"}
    command = module_of(PLACE, "pytest", [*OPTIONS, *FILES])
    done = in_place.inside(command, env=env, patience=PATIENCE)
    out = (done.out + done.err).decode(errors="replace")
    assert done.code == 0, out[-20000:]
    for file, least in FILES.items():
        passed = len(re.findall(rf"^{re.escape(file)}::.* PASSED", out, re.MULTILINE))
        assert passed >= least, f"{file}: {passed} passed\n{out[-20000:]}"
    assert not re.search(r" SKIPPED .*conversion in place", out)
    skipped = re.findall(r"^tests/examples/.*\[(\w+)-kvm\] SKIPPED", out, re.MULTILINE)
    assert skipped == [*LEFT_OUT]
    for reason in LEFT_OUT.values():
        assert reason in out


def test_a_script_of_the_shell_and_an_example_as_one(in_place: LabAtHand) -> None:
    program = module_of(PLACE, "pyvmm", ["shell", "--host", "kvm", "--private"])
    program[2] = program[2].replace(" </dev/null", "")
    done = in_place.inside(program, given=SCRIPT, patience=PATIENCE)
    out, err = done.out.decode().splitlines(), done.err.decode()
    assert done.code == 71, err
    assert out[0].startswith("held: EAGAIN"), out
    assert "0x4000" in out[0]
    assert out[1].startswith("private: EFAULT"), out
    assert "0000004000-0000004fff      4 KiB  private   held: 4 KiB" in out
    assert out[-1] == "shared again: b'shared'"
    line = SCRIPT.count(b"\n")
    assert err.startswith(f"pyvmm: <stdin>:{line}: cannot issue KVM_SET_MEMORY_ATTRIBUTES"), err
    assert err.count("\n") == 1
    arguments = ["shell", "--host", "kvm", "examples/measure_conversion.py", "kvm"]
    done = in_place.inside(module_of(PLACE, "pyvmm", arguments), patience=PATIENCE)
    assert done.code == 0, done.err
    small, large, kept = done.out.decode().splitlines()
    assert small.startswith("    4 KiB on kvm, in place: median ")
    assert large.startswith(" 2048 KiB on kvm, in place: median ")
    assert kept == "the shared page still has b'kept?'"


@pytest.mark.qemu
def test_guests_compare_with_qemu_on_its_kvm(in_place: LabAtHand) -> None:
    what = ("compare", "exit", "--append", "7", "-m", "4M", "--runs", "1")
    kvm = ("--host", "kvm", "--accel", "kvm")
    done = in_place.inside(module_of(PLACE, "pyvmm", [*what, *kvm]), patience=PATIENCE)
    text = done.out.decode()
    assert done.code == 0, text + done.err.decode()
    assert text.splitlines()[-1] == "The behaviour agrees."
    assert "exited 7" in text
    assert "io_exits" in text
