# SPDX-License-Identifier: MIT
"""The ioctl table: numbers, sizes, and agreement with the system's header where it knows them."""

from __future__ import annotations

import errno
import shutil
import subprocess
from pathlib import Path

import pytest

from pyvmm.hosts.kvm.binding import ffi
from pyvmm.hosts.kvm.constants import Cap, ExitReason
from pyvmm.hosts.kvm.errors import KvmError
from pyvmm.hosts.kvm.extensions import KNOWN
from pyvmm.hosts.kvm.ioctls import ALL, Direction, FdKind, IoctlSpec

COMPARED_AT_LEAST = 65
"""Debian 12's header (Linux 6.1) has all of ours but those about guest_memfd."""


@pytest.mark.parametrize("spec", ALL.values(), ids=lambda spec: spec.name)
def test_number_encodes_direction_type_and_size(spec: IoctlSpec) -> None:
    assert spec.number >> 30 == spec.direction
    assert spec.number >> 8 & 0xFF == 0xAE
    size = spec.number >> 16 & 0x3FFF
    if spec.direction is Direction.NONE:
        assert size == 0
        assert spec.argument in {"", "value"}
    else:
        assert size == ffi.sizeof(spec.argument)


def test_no_two_ioctls_of_one_kind_share_a_number() -> None:
    seen: dict[tuple[FdKind, int], str] = {}
    for spec in ALL.values():
        other = seen.setdefault((spec.kind, spec.number), spec.name)
        assert other == spec.name


def _ask_system_header(tmp_path: Path, names: list[str]) -> dict[str, int]:
    compiler = shutil.which("cc")
    assert compiler, "a C compiler is needed to build pyvmm, and for this test"
    lines = ["#include <stdio.h>", "#include <linux/kvm.h>", "int main(void) {"]
    for name in names:
        lines += [f"#ifdef {name}", f'printf("{name} %lu\\n", (unsigned long)({name}));', "#endif"]
    lines += ["return 0; }"]
    source = tmp_path / "ask.c"
    source.write_text("\n".join(lines))
    program = tmp_path / "ask"
    subprocess.run([compiler, "-o", program, source], check=True)
    output = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return {name: int(value) for name, value in (line.split() for line in output.splitlines())}


def test_numbers_agree_with_the_system_header(tmp_path: Path) -> None:
    theirs = _ask_system_header(tmp_path, list(ALL))
    assert len(theirs) >= COMPARED_AT_LEAST
    assert {name: ALL[name].number for name in theirs} == theirs


def test_extensions_agree_with_the_system_header(tmp_path: Path) -> None:
    ours = {f"KVM_CAP_{name}": number for name, number, _ in KNOWN}
    theirs = _ask_system_header(tmp_path, list(ours))
    assert len(theirs) >= 110
    assert {name: ours[name] for name in theirs} == theirs


def test_exit_reasons_agree_with_the_system_header(tmp_path: Path) -> None:
    ours = {f"KVM_EXIT_{reason.name}": reason.value for reason in ExitReason}
    theirs = _ask_system_header(tmp_path, list(ours))
    assert len(theirs) >= len(ours) - 1
    assert {name: ours[name] for name in theirs} == theirs


def test_extensions_are_listed_once_and_in_order() -> None:
    numbers = [number for _, number, _ in KNOWN]
    assert numbers == sorted(set(numbers))
    by_name = {name: number for name, number, _ in KNOWN}
    assert {cap.name: cap.value for cap in Cap} == {cap.name: by_name[cap.name] for cap in Cap}


def test_a_kernel_without_a_way_to_pre_fault_is_told_what_it_takes() -> None:
    error = KvmError("KVM_PRE_FAULT_MEMORY", "vCPU fd 7", "gpa=0x0 size=0x1000", errno.EOPNOTSUPP)
    assert str(error).endswith(
        "it takes two-dimensional page tables (EPT or NPT): use such a host, or the lab"
    )
