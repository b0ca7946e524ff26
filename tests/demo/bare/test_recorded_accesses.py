# SPDX-License-Identifier: MIT
"""Accesses of a bare stage's guest and host as they are recorded, compared with strace."""

from __future__ import annotations

import errno
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.demo.bare.recorded_accesses import MARK

ROOT = Path(__file__).parents[3]
COMPARED = {"KVM_SET_REGS", "KVM_RUN", "KVM_CREATE_VCPU", "KVM_SET_USER_MEMORY_REGION",
            "KVM_SET_USER_MEMORY_REGION2", "KVM_CREATE_GUEST_MEMFD", "KVM_GET_SREGS",
            "KVM_SET_SREGS", "KVM_SET_MEMORY_ATTRIBUTES2", "process_vm_readv",
            "process_vm_writev", "fcntl"}  # fmt: skip
UNNAMED = re.compile(r"_IOC\([A-Z_|]+, 0xae, (0x[0-9a-f]+), (0x[0-9a-f]+)\)")
BY_NUMBER = {
    ("0x49", "0xa0"): "KVM_SET_USER_MEMORY_REGION2",
    ("0xd4", "0x40"): "KVM_CREATE_GUEST_MEMFD",
    ("0xd2", "0x80"): "KVM_SET_MEMORY_ATTRIBUTES2",
}
"""Those that strace may not have a name for."""


def seen_by_strace(line: str) -> tuple[str, str, int] | None:
    found = re.match(r"(\w+)\((\d+), ?(.*)\) += (-?\d+)(?: (E\w+))?", line)
    if found is None:
        return None
    name, fd, rest, _, error = found.groups()
    if name == "ioctl":
        unnamed = UNNAMED.match(rest)
        if unnamed:
            name = BY_NUMBER.get((unnamed[1], unnamed[2]), rest)
        else:
            named = re.findall(r"KVM_[A-Z0-9_]+", rest.split(", ")[0])
            name = named[-1] if named else rest
    if name == "fcntl" and "F_DUPFD_CLOEXEC" not in rest:
        return None
    number = getattr(errno, error) if error else 0
    return name, "" if name.startswith("process_vm") else fd, number


@pytest.mark.kvm
@pytest.mark.slow
def test_the_record_is_what_strace_sees(tmp_path: Path) -> None:
    log = tmp_path / "strace"
    ended = subprocess.run(
        ["strace", "-f", "-o", log, "-e", "signal=none", "-e",
         "trace=ioctl,fcntl,process_vm_readv,process_vm_writev,stat,newfstatat,statx",
         sys.executable, "-m", "tests.demo.bare.recorded_accesses"],
        stdout=subprocess.PIPE, check=True, cwd=ROOT,
    )  # fmt: skip
    recorded: list[list[Any]] = json.loads(ended.stdout)
    lines = [line.split(maxsplit=1)[1] for line in log.read_text().splitlines()]
    marks = [number for number, line in enumerate(lines) if MARK in line]
    assert len(marks) == 4
    told = [seen_by_strace(line) for line in lines[marks[2] : marks[3]]]
    rows = [tuple(one) for one in recorded if one[0] in COMPARED]
    # Python duplicates what it maps for the rules beside the stage.
    seen = [
        one
        for one in told
        if one is not None and one[0] in COMPARED and (one[0] != "fcntl" or one in rows)
    ]
    assert seen == rows
    runs = [number for name, _, number in seen if name == "KVM_RUN"]
    assert runs == [0, 0, 0, 0, 0, 0, errno.EFAULT, 0, 0]
    assert COMPARED - {name for name, _, _ in seen} == set()
