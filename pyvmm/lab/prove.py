# SPDX-License-Identifier: MIT
"""Features that a kernel proves to have: it is booted in a lab of its own, and its KVM is asked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from pyvmm.errors import HostLacksError

_PATIENCE = 180
"""Seconds for boot and answer; an emulated machine on a busy host takes a while."""

_QUESTIONS = {
    "vm_types": 235,
    "memory_attributes": 233,
    "guest_memfd": 234,
    "guest_memfd_flags": 244,
    "pre_fault": 236,
    "memory_fault_info": 232,
    "exit_hypercall": 201,
}
"""Numbers of KVM_CHECK_EXTENSION (api.rst 4.4)."""

_PRIVATE = 1 << 3
"""KVM_MEMORY_ATTRIBUTE_PRIVATE."""

# Runs in the lab, without pyvmm: importing it would take longer than the boot. 0xae03 and 0xae01
# are KVM_CHECK_EXTENSION and KVM_CREATE_VM; type 1 is KVM_X86_SW_PROTECTED_VM; 0xc040aed4 and
# 0xc080aed2 are KVM_CREATE_GUEST_MEMFD and, as posted, KVM_SET_MEMORY_ATTRIBUTES2 of such a file,
# which refuses an empty range where it is there.
_SCRIPT = """
import errno, fcntl, json, os, sys
kvm = os.open("/dev/kvm", os.O_RDWR)
answers = {name: fcntl.ioctl(kvm, 0xae03, cap) for name, cap in json.loads(sys.argv[1]).items()}
answers["sw_protected_vm"] = answers["file_attributes"] = file = 0
try:
    vm = fcntl.ioctl(kvm, 0xae01, 1)
    answers["sw_protected_vm"] = 1
    file = fcntl.ioctl(vm, 0xc040aed4, bytearray((4096).to_bytes(64, "little")))
    fcntl.ioctl(file, 0xc080aed2, bytes(128))
except OSError as error:
    answers["file_attributes"] = 8 * (file > 0 and error.errno == errno.EINVAL)
print(json.dumps(answers))
"""


def prove(path: Path) -> Mapping[str, int]:
    """The answers of the kernel at `path`, by name: `_QUESTIONS`, and what a VM of that type tells.

    ``sw_protected_vm`` is 1 where there is one, and ``file_attributes`` what its guest_memfds keep
    themselves (8 is PRIVATE), in the place of ``memory_attributes``, which then are 0. Raises
    `HostLacksError` where it does not come up in a lab, or has no private memory there.
    """
    attempt = f"use the kernel {path} for the lab"
    command = [sys.executable, "-m", "pyvmm", "lab", "run", "--kernel", str(path), "--"]
    command += [sys.executable, "-I", "-S", "-c", _SCRIPT, json.dumps(_QUESTIONS)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise HostLacksError(attempt, f"it said nothing for {_PATIENCE} s") from error
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise HostLacksError(
            attempt,
            said[-1].removeprefix("pyvmm: ") if said else f"status {done.returncode}",
            "build one with pyvmm lab build",
        )
    answers: dict[str, int] = json.loads(done.stdout)
    attributes = answers["memory_attributes"] | answers["file_attributes"]
    if not answers["sw_protected_vm"] or not attributes & _PRIVATE:
        raise HostLacksError(
            attempt,
            "its KVM has no private memory",
            "build it with CONFIG_KVM_SW_PROTECTED_VM, or use pyvmm lab build",
        )
    return answers
